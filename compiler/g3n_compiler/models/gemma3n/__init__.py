"""Gemma 3n: everything that knows its architecture, its checkpoints and its prompt."""

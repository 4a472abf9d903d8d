"""Gemma 3n: everything that depends on its architecture, its checkpoints or its prompt."""

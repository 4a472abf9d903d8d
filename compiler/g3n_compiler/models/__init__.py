"""Gemma 3n's own export-friendly modules: functional, with every weight passed in from outside."""

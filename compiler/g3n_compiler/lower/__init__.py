"""Backends: each lowers a model for one runtime and opens what it wrote."""

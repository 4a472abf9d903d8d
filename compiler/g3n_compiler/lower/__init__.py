"""Backends: each lowers the text model for one runtime and opens what it made."""

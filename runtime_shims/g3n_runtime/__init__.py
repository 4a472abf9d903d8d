"""Thin host-side adapters over the stock engines: open a bundle, check it, run it."""

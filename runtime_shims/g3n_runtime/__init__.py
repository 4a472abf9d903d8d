"""Thin host-side adapters over the stock engines: open a bundle, check it, run it."""

from g3n_runtime.libraries import silence_libraries

silence_libraries()

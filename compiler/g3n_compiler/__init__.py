"""Compile a Gemma 3n checkpoint into bundles that phones run.

The flow is one way, a folder for each stage:
checkpoint -> modules -> trace -> partition -> quantize -> lower -> bundle -> verify.
"""

from g3n_runtime.libraries import silence_libraries

__version__ = "0.1.0"

silence_libraries()

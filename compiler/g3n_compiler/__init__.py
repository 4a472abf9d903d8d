"""Compile a Gemma 3n checkpoint into bundles that phones run.

The pipeline goes one way, with a folder for each stage: checkpoint -> models -> slice -> quantize -> lower -> verify ->
bundle. See ``docs/architecture.md``.
"""

from g3n_runtime.libraries import silence_libraries

__version__ = "0.1.0"

silence_libraries()

"""The training of nano, the checkpoint in the compiler's package; compiling and running bundles do not need it.

``g3n_compiler/nano/checkpoint/README.md`` gives the commands and their results.
"""

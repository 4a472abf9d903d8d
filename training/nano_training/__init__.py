"""How nano, the checkpoint in the compiler's package, was trained; compiling and running a bundle need nothing of it.

``g3n_compiler/nano/checkpoint/README.md`` tells the commands and what came out of them.
"""

"""Exact rewrites of weights: other numbers in the checkpoint's tensors, the same function in float32.

All of them stand here. They are chosen once for a whole checkpoint, so that its slices and sizes share them, and a
:class:`~g3n_compiler.source.Source` applies them to whatever is read.
"""

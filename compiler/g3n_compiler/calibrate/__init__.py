"""Round a checkpoint's matrices to int4 by what the model does with examples, before it is compiled.

The result is a checkpoint of the same shape whose rounded values already lie on the integer grid, so every later stage
quantises them without error. Calibration precedes the compile, which only checks that a calibrated checkpoint is used
for its own recipe.
"""

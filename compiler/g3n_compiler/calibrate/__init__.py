"""Round a checkpoint's matrices to int4 by what the model does with examples, before it is compiled.

What comes out is a checkpoint of the same shape whose rounded values lie on the integers' grid already, so every later
stage quantises it without an error. It comes before the flow, and nothing in the flow knows of it but a guard.
"""

"""XNNPACK delegates made once for each kind of layer, and named after the weights that they ask for."""

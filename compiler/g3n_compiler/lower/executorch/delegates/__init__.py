"""XNNPACK delegates that are lowered once for each kind of layer, and refer to their weights by name."""

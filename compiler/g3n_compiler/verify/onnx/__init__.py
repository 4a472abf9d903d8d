"""ONNX: a third, independent runtime for the same graphs. onnxruntime gives parity on any host."""

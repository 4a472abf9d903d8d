"""ONNX: a third, independent runtime for the same graphs; onnxruntime checks parity on any host."""

"""Quantization: named recipes as data, the integer arithmetic, and the fake-quant reference for both backends."""

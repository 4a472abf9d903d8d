"""MatFormer slices: any nested size of a checkpoint, as a view; nothing is copied before it is quantised.

Source: "MatFormer: Nested Transformer for Elastic Inference" (arXiv 2310.07707) and Gemma 3n's MatFormer Lab.
"""

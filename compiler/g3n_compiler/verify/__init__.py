"""Hold every artifact against the reference before a compile may say "done".

Chain of references: ``transformers`` eager fp32 -> our decoder in eager fp32 -> the same over fake-quantised weights
-> the emitted artifact in its stock engine; onnxruntime stands beside, over the exported graphs.
"""

"""Compare every artifact with the reference before a compile can report success.

Chain of references: ``transformers`` eager fp32 -> our decoder in eager fp32 -> the same over fake-quantised weights ->
the lowered artifact in its stock engine. In addition, onnxruntime runs the exported graphs.
"""

"""LiteRT: the text model as a ``.litertlm`` for the stock LiteRT-LM engine, delegated to XNNPACK."""

from g3n_compiler.lower.litert.backend import LiteRtBackend

__all__ = ["LiteRtBackend"]

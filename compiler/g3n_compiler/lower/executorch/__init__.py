"""ExecuTorch: the text model as a ``.pte`` for the stock LLM runner, delegated to XNNPACK."""

from g3n_compiler.lower.executorch.backend import ExecuTorchBackend

__all__ = ["ExecuTorchBackend"]

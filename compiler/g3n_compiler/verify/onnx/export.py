"""Each subgraph as an ONNX model with its weights as inputs, and a thin onnxruntime session for it."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from g3n_compiler.models.gemma3n.text_config import TextConfig

ERRORS_ONLY = 3


class TokenEmbedding(nn.Module):
    """``token_ids [T]`` -> ``embeddings [1, T, hidden]``, scaled by ``sqrt(hidden)``."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.scale = math.sqrt(config.hidden_size)

    def forward(self, token_ids: Tensor, table: Tensor) -> dict[str, Tensor]:
        return {"embeddings": (table[token_ids] * self.scale).unsqueeze(0)}


class PerLayerEmbedding(nn.Module):
    """``token_ids [T]`` -> ``embeddings [1, T, layers, ple_dim]``; ids outside the table look up row 0."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, token_ids: Tensor, table: Tensor) -> dict[str, Tensor]:
        inside = (token_ids >= 0) & (token_ids < self.config.ple_vocab_size)
        rows = table[torch.where(inside, token_ids, torch.zeros_like(token_ids))]
        shape = (1, -1, self.config.num_layers, self.config.ple_dim)
        return {"embeddings": rows.view(shape) * math.sqrt(self.config.ple_dim)}


def export_onnx(module: nn.Module, inputs: dict[str, Any], outputs: Sequence[str]) -> bytes:
    """Export ``module``, called with keyword ``inputs`` (mappings are flattened), and name its outputs in order."""
    with torch.no_grad():
        program = torch.onnx.export(
            module, (), kwargs=inputs, output_names=list(outputs), dynamo=True, verbose=False, optimize=False
        )
    assert program is not None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        program.save(str(path))
        return path.read_bytes()


class OnnxSession:
    """One ONNX model on onnxruntime's CPU."""

    def __init__(self, model: bytes, threads: int = 2) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = ERRORS_ONLY
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run with arrays by input name; inputs that the graph does not have are ignored."""
        wanted = {i.name for i in self._session.get_inputs()}
        names = [o.name for o in self._session.get_outputs()]
        return dict(zip(names, self._session.run(names, {k: v for k, v in inputs.items() if k in wanted}), strict=True))

"""The output of each layer of a lowered program, for verification."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_runtime.executorch.model import ExecuTorchModel, ExecuTorchParts

PROBE: Final = "layer_probe"


class ProbedLayers:
    """See :class:`g3n_compiler.lower.opened.LayeredModel`.

    The probe method calls the same delegates as the shipped methods, all in memory at once. The last token of the
    prompt is in the same chunk as those before it, as in the runner.
    """

    def __init__(self, parts: ExecuTorchParts, config: TextConfig) -> None:
        self._model = ExecuTorchModel(parts, PROBE)
        self._config = config

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        return self._model.embeddings(ids)

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        return self._model.ple(ids).reshape(len(ids), self._config.num_layers, -1)

    def run(self, embeddings: np.ndarray, ple: np.ndarray, prompt: int) -> Iterator[np.ndarray]:
        rows = np.concatenate((embeddings, ple.reshape(len(ple), -1)), -1)
        begins = [*range(0, prompt, self._model.chunk), *range(prompt, len(rows))]
        ends = [*begins[1:], len(rows)]
        calls = [self._model.call_rows(rows[a:b], a) for a, b in zip(begins, ends, strict=True)]
        # Of the prompt's chunks, only the last one's final token is needed.
        asked = [call for call, end in zip(calls, ends, strict=True) if end >= prompt]
        last_owner = self._config.num_kv_layers - 1
        for layer in range(self._config.num_layers):
            yield np.concatenate([call[1 + layer] for call in (calls if layer < last_owner else asked)])
        yield np.concatenate([call[0][0] for call in asked])

"""A model on the GPU, where the GPU is a stand-in: what is said when it does not finish."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from g3n_runtime.errors import EngineError
from g3n_runtime.litert import gpu
from g3n_runtime.litert.gpu import GpuModel


class _Buffer:
    def write(self, values: np.ndarray) -> None:
        pass

    def read(self, count: int, dtype: Any) -> np.ndarray:
        raise RuntimeError("ERROR: [tensor_buffer.h:699]\n└ Failed to lock custom tensor buffer.\n")


class _Stuck:
    """As ``CompiledModel`` where a driver in software takes too long."""

    def get_input_tensor_details(self, signature: str) -> dict[str, Any]:
        return {"x": {"shape": (1, 4)}}

    get_output_tensor_details = get_input_tensor_details

    def create_input_buffer_by_name(self, signature: str, name: str) -> _Buffer:
        return _Buffer()

    create_output_buffer_by_name = create_input_buffer_by_name

    def run_by_name(self, signature: str, given: Any, found: Any) -> None:
        pass


def test_a_gpu_that_does_not_finish_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "compile_for_gpu", lambda path: _Stuck())
    model = GpuModel("model.tflite")  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=r"no result of decode \(Failed to lock custom tensor buffer\.\).*10 seconds"):
        model.call("decode", {"x": np.zeros((1, 4), np.float32)})

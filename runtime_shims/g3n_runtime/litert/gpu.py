"""Call the signatures of a TFLite model on LiteRT's GPU delegate, in float32.

Needs ``ai-edge-litert`` and numpy; a driver must be in use, see :meth:`g3n_runtime.litert.vulkan.Driver.use`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.gpu_options import GpuOptions
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.options import Options

from g3n_runtime.errors import EngineError


def compile_for_gpu(path: Path) -> CompiledModel:
    """The model at ``path``, all of it on the GPU.

    Raises:
        EngineError: the delegate refuses the model, or would leave a part of it to the CPU.
    """
    # LiteRT-LM also shares constants between signatures, which ends ai-edge-litert 2.3.0 with a segmentation fault. So
    # weights lie on the GPU in float32 here, for each signature anew: a whole model takes many times its file.
    # Asked to wait: a driver in software takes half a minute for a call, and the delegate gives some of them up.
    gpu = GpuOptions(enforce_f32=True, hint_waiting_for_completion=True)
    options = Options(hardware_accelerators=HardwareAccelerator.GPU, gpu_options=gpu)
    try:
        model = CompiledModel.from_file(str(path), options=options)
        whole = model.is_fully_accelerated()
    except RuntimeError as error:
        raise EngineError(f"the GPU delegate refuses {path.name} ({error}): see its messages above") from None
    if not whole:
        raise EngineError(f"the GPU delegate takes only a part of {path.name}: see its messages above")
    return model


class GpuModel:
    """The model at ``path`` on the GPU, as :func:`compile_for_gpu` takes it."""

    def __init__(self, path: Path) -> None:
        self._model = compile_for_gpu(path)
        self._buffers: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    @property
    def signatures(self) -> list[str]:
        return list(self._model.get_signature_list())

    def shapes(self, signature: str) -> dict[str, tuple[int, ...]]:
        """Shapes of a signature's inputs, by their names."""
        return {name: tuple(d["shape"]) for name, d in self._model.get_input_tensor_details(signature).items()}

    def call(self, signature: str, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Every output of a signature, float32.

        Raises:
            EngineError: the GPU did not finish; the delegate waits ten seconds for it.
        """
        given, found = self._opened(signature)
        shapes = {name: tuple(d["shape"]) for name, d in self._model.get_output_tensor_details(signature).items()}
        try:
            for name, buffer in given.items():
                buffer.write(np.ascontiguousarray(inputs[name]))
            self._model.run_by_name(signature, given, found)
            return {
                name: np.array(buffer.read(int(np.prod(shapes[name])), np.float32)).reshape(shapes[name])
                for name, buffer in found.items()
            }
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1].lstrip("└ ")
            raise EngineError(
                f"the GPU gave no result of {signature} ({reason}): the delegate waits for 10 seconds, and a "
                "software driver may take longer; run it again when the machine is idle, or on one with a GPU"
            ) from None

    def _opened(self, signature: str) -> tuple[dict[str, Any], dict[str, Any]]:
        if signature not in self._buffers:
            model = self._model
            given = model.get_input_tensor_details(signature)
            found = model.get_output_tensor_details(signature)
            self._buffers[signature] = (
                {name: model.create_input_buffer_by_name(signature, name) for name in given},
                {name: model.create_output_buffer_by_name(signature, name) for name in found},
            )
        return self._buffers[signature]

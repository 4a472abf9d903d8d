"""The vision tower as two TFLite models: the encoder, a signature a resolution over one copy of the weights, and the
adapter into the text space.

LiteRT-LM 0.18.1 runs an encoder's first signature; the others are for whoever calls the file itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from g3n_compiler.checkpoint.multimodal import VisionConfig
from g3n_compiler.lower.backend import Job
from g3n_compiler.lower.litert.bind import bind
from g3n_compiler.lower.litert.delegation import measure
from g3n_compiler.lower.litert.graph import convert_signatures
from g3n_compiler.lower.litert.parts import TowerPart
from g3n_compiler.modules.dialect import Dialect
from g3n_compiler.modules.vision_layout import VisionLayout, read_layout
from g3n_compiler.trace.vision import AdaptImage, EncodeImage, adapter_read, placeholders

ADAPTER_SIGNATURE = "vision_adapter"


def signature_name(pixels: int) -> str:
    """Name of the encoder's signature for images of ``pixels`` x ``pixels``."""
    return f"encode_{pixels}"


class LiteRtDialect(Dialect):
    """Products of two activations as one BATCH_MATMUL, without the transposes that ``torch.matmul`` brings."""

    def __init__(self) -> None:
        importlib.import_module("litert_torch.generative.custom_ops.bmm_4d")

    def matmul_transposed(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.ops.litert_torch.bmm_4d(a, b)


def lower_vision(job: Job, config: VisionConfig, folder: Path) -> list[TowerPart]:
    """Convert, quantise and bind both models into ``folder``."""
    encoder, adapter = folder / "vision_encoder.tflite", folder / "vision_adapter.tflite"
    layout, hidden = read_layout(config), job.config.hidden_size
    job.progress("litert: converting the vision tower")
    graphs = {signature_name(s): encoder_graph(layout, s) for s in job.resolutions}
    bind(convert_signatures(graphs), graphs_specs(graphs), job.recipe, job.checkpoint.read, encoder)
    graphs = {ADAPTER_SIGNATURE: adapter_graph(config, hidden)}
    bind(convert_signatures(graphs), graphs_specs(graphs), job.recipe, adapter_read(job.checkpoint, config), adapter)
    return [
        TowerPart(
            "vision_encoder",
            "vision_encoder",
            encoder,
            tuple(signature_name(s) for s in job.resolutions),
            measure(encoder),
        ),
        TowerPart("vision_adapter", "vision_adapter", adapter, (ADAPTER_SIGNATURE,), measure(adapter)),
    ]

"""The vision tower as two TFLite models: the encoder, at several resolutions over one copy of the weights, and the
adapter, which projects into the text model's space.

LiteRT-LM 0.18.1 crashes if an encoder's section has more than one signature, so each resolution has a flatbuffer of its
own in front of the same weights. The engine runs the first one: it resizes every picture to the one size given in the
metadata.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from g3n_compiler.lower.job import Job
from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.lower.litert.container import extract, sections
from g3n_compiler.lower.litert.delegation import measure
from g3n_compiler.lower.litert.file_headers import write_file_headers
from g3n_compiler.lower.litert.gpu_operators import require_gpu_operators
from g3n_compiler.lower.litert.section import TowerSection
from g3n_compiler.lower.litert.text import convert_modules
from g3n_compiler.lower.litert.tower_blocks import partial_copy, run_blocks
from g3n_compiler.lower.signatures.vision import AdaptImage, EncodeImage, adapter_read, trace_adapter, trace_encoder
from g3n_compiler.models.dialect import Dialect
from g3n_compiler.models.gemma3n.tower_config import VisionConfig
from g3n_compiler.models.gemma3n.vision_layout import VisionLayout, read_layout
from g3n_runtime.litert.vision import ADAPTER, LiteRtVision, encoder_name, encoder_side


class LiteRtDialect(Dialect):
    """Products of two activations as one BATCH_MATMUL, without the transposes that ``torch.matmul`` adds."""

    def __init__(self) -> None:
        importlib.import_module("litert_torch.generative.custom_ops.bmm_4d")

    def matmul_transposed(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.ops.litert_torch.bmm_4d(a, b)


def convert_encoder(layout: VisionLayout, resolutions: Sequence[int]) -> bytes:
    """The encoder with a signature for each resolution, its weights still graph inputs."""
    module = EncodeImage(layout, LiteRtDialect(), layer_outputs=True)
    return convert_modules({encoder_name(s): (module, trace_encoder(module, s)) for s in resolutions})


def convert_adapter(config: VisionConfig, hidden_size: int) -> bytes:
    """The adapter, its weights still graph inputs."""
    module = AdaptImage(config, hidden_size)
    return convert_modules({ADAPTER: (module, trace_adapter(module))})


def lower_vision(job: Job, config: VisionConfig, folder: Path) -> list[TowerSection]:
    """Convert, quantise and bind both models into ``folder``."""
    encoder, adapter = folder / "vision_encoder.tflite", folder / "vision_adapter.tflite"
    layout, hidden, read = read_layout(config), job.config.hidden_size, job.source.read
    names = tuple(encoder_name(s) for s in job.resolutions)
    job.progress("litert: converting the vision tower")
    graph, specs = convert_encoder(layout, job.resolutions), EncodeImage(layout).specs
    if job.target.place("vision_encoder").delegate == "gpu":
        require_gpu_operators(graph, {spec.input_name for spec in specs.values()}, "the vision encoder")
    bind(
        graph,
        specs,
        job.recipe,
        read,
        encoder,
        signature_groups=[(name,) for name in names],
    )
    delegation = measure(encoder)
    begins = write_file_headers(encoder, [(name,) for name in names])
    adapter_specs = AdaptImage(config, hidden).specs
    bind(convert_adapter(config, hidden), adapter_specs, job.recipe, adapter_read(job.source, config), adapter)
    return [
        TowerSection(
            "vision_encoder",
            "vision_encoder",
            encoder,
            names,
            delegation,
            dict(zip(names[1:], begins[1:], strict=True)),
        ),
        TowerSection("vision_adapter", "vision_adapter", adapter, (ADAPTER,), measure(adapter)),
    ]


class OpenedVision:
    """The tower of a finished ``.litertlm``, copied out so that the interpreter can map it; see ``VisionModel``."""

    def __init__(self, path: Path) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".vision-")
        folder = Path(self._scratch.name)
        adapter = folder / "adapter.tflite"
        extract(path, "vision_adapter", adapter)
        views = [s.kind for s in sections(path) if encoder_side(s.kind) is not None]
        encoders: dict[int, Path] = {}
        self._path, self._kinds = path, {}
        for kind in ("vision_encoder", *views):
            encoder = folder / f"{kind}.tflite"
            extract(path, kind, encoder)
            side = encoder_side(kind) or _side_of(encoder)
            encoders[side], self._kinds[side] = encoder, kind
        self._model = LiteRtVision(encoders, adapter)

    @property
    def resolutions(self) -> tuple[int, ...]:
        return self._model.resolutions

    def embed(self, image: np.ndarray) -> np.ndarray:
        return self._model.embed(image)

    def steps(self, image: np.ndarray) -> Iterator[np.ndarray]:
        side = image.shape[0]
        with partial_copy(self._path, self._kinds[side]) as model:
            *maps, last = run_blocks(model, encoder_name(side), {"images": image[None]}, ("features",))
            yield from maps
            yield last["features"]
        yield self._model.adapt(last["features"])


def _side_of(encoder: Path) -> int:
    """The image side of an encoder's only signature."""
    names = [d.signatureKey.decode() for d in flatbuffer.parse_file(encoder).signatureDefs]
    side = encoder_side(names[0])
    assert side is not None and len(names) == 1
    return side

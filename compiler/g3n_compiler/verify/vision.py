"""The vision tower alone: ``transformers``, onnxruntime and each runtime's artifact against our eager reference."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from g3n_compiler.heap import release_free_memory
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.opened import OpenVision, VisionModel
from g3n_compiler.lower.signatures.vision import (
    AdaptImage,
    EncodeImage,
    adapt,
    adapter_read,
    adapter_weights,
    trace_adapter,
    trace_encoder,
    weight_inputs,
)
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.tower_config import VisionConfig
from g3n_compiler.models.gemma3n.transformers_model import load_hf_embedder
from g3n_compiler.models.gemma3n.vision import VisionEncoder
from g3n_compiler.models.gemma3n.vision_layout import VisionLayout, read_layout
from g3n_compiler.models.gemma3n.vision_weights import TOWER
from g3n_compiler.models.weights import LazyWeights, Read, TensorWeights, Weights, WeightSpec
from g3n_compiler.quantize.fake import FakeQuantWeights
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import EXACT, SAME, Check, relative_error
from g3n_compiler.verify.onnx.export import OnnxSession, export_onnx
from g3n_compiler.verify.tower_blocks import Measure, StepErrors, step_checks, vision_errors

SMALL_PARAMETERS = 100_000_000
"""Encoders up to this size are held whole in float32, and compared with ``transformers`` in every compile."""


def golden_image(side: int) -> np.ndarray:
    """A picture ``[side, side, 3]`` float32 in 0..1, the same in every run: soft gradients, edges and noise."""
    y, x = np.mgrid[0:side, 0:side] / side
    noise = np.random.default_rng(side).random((side, side, 3))
    waves = np.stack([x, y, 0.5 + 0.5 * np.sin(20 * (x + y))], -1)
    squares = ((np.floor(8 * x) + np.floor(8 * y)) % 2)[..., None]
    return (0.5 * waves + 0.2 * squares + 0.3 * noise).astype(np.float32)


class VisionReference:
    """The tower in eager PyTorch, over exact (``recipe=None``) or fake-quantised weights.

    Args:
        float_activations: round the encoder's weights alone, as for a GPU; what follows it runs on the CPU.
    """

    def __init__(
        self, source: Source, config: VisionConfig, recipe: Recipe | None = None, float_activations: bool = False
    ) -> None:
        self._config, self._layout = config, read_layout(config)
        specs = EncodeImage(self._layout).specs
        keep = is_small(self._layout)
        self._encoder = VisionEncoder(self._layout, _weights(source.read, specs, recipe, keep, float_activations))
        read = adapter_read(source, config)
        self._adapter = _weights(read, adapter_weights(config, source.text.hidden_size), recipe, keep)

    @torch.no_grad()
    def embed(self, image: np.ndarray) -> np.ndarray:
        """Soft tokens and the end row ``[T + 1, hidden]`` float32 of ``image [S, S, 3]``."""
        return self._adapt(self._encoder.features(torch.from_numpy(image)[None]))[0].numpy()

    def errors(
        self, image: np.ndarray, steps: Iterable[np.ndarray], measure: Measure = relative_error, limit: float = math.inf
    ) -> StepErrors:
        """The error of each of an artifact's ``steps`` over ``image``."""
        found = StepErrors(measure, limit)
        vision_errors(self._encoder, self._adapt, image, steps, found)
        return found

    @torch.no_grad()
    def steps(self, image: np.ndarray) -> Iterator[np.ndarray]:
        """The outputs of the stem and each block, the features, and the soft tokens with the end row."""
        x = torch.empty(0)
        for x in self._encoder.block_outputs(torch.from_numpy(image)[None]):
            yield x.numpy()
        yield self._adapt(x)[0].numpy()

    def _adapt(self, features: Tensor) -> Tensor:
        return adapt(self._config, self._adapter, features)


def is_small(layout: VisionLayout) -> bool:
    return sum(torch.Size(s.shape).numel() for s in EncodeImage(layout).specs.values()) <= SMALL_PARAMETERS


def vision_checks(job: Job, config: VisionConfig, models: Mapping[Runtime, OpenVision]) -> list[Check]:
    """Every comparison of the tower, at every compiled resolution; a missing one fails.

    Each of ``models`` is opened when its turn comes and closed before the next, so that no two are in memory.
    """
    exact = VisionReference(job.source, config)
    rounded = exact if job.recipe.name == "fp32" else VisionReference(job.source, config, job.recipe)
    images = {side: golden_image(side) for side in job.resolutions}
    want = {side: exact.embed(image) for side, image in images.items()}
    checks: list[Check] = []
    if is_small(read_layout(config)):
        hf = load_hf_vision(job.source.original, config)
        checks += [_check("eager", "transformers fp32", s, want[s], hf(images[s]), EXACT) for s in images]
    smallest = min(images)
    got = onnx_embed(job.source, config, images[smallest])
    checks.append(_check("onnxruntime", "eager fp32", smallest, got, want[smallest], EXACT))
    release_free_memory()
    for runtime, open_model in models.items():
        job.progress(f"comparing the {runtime} vision tower")
        checks += _artifact_checks(job, runtime, open_model(), None if rounded is exact else rounded, images, want)
        release_free_memory()
    return checks


def _artifact_checks(
    job: Job,
    runtime: Runtime,
    model: VisionModel | None,
    rounded: VisionReference | None,
    images: Mapping[int, np.ndarray],
    want: Mapping[int, np.ndarray],
) -> Iterator[Check]:
    """Hold an artifact against the ``rounded`` reference step by step, or against what is wanted if nothing is rounded.

    Args:
        images: pictures ``[S, S, 3]`` by their side.
        want: what the reference in float32 makes of them.
    """
    for side, image in images.items():
        if model is None or side not in model.resolutions:
            yield _check(runtime, "eager fp32", side, np.empty(0), want[side], EXACT)
        elif rounded is None:
            yield _check(runtime, "eager fp32", side, model.embed(image), want[side], EXACT)
        else:
            errors = rounded.errors(image, model.steps(image), limit=job.recipe.layer_tolerance)
            yield from step_checks(job, "vision_encoder", runtime, f"{side} x {side} pixels", errors)
            yield _check(runtime, "its own steps", side, model.embed(image), errors.result, SAME)


def load_hf_vision(source: Source, config: VisionConfig) -> Callable[[np.ndarray], np.ndarray]:
    """The function ``embed`` of ``transformers``: its tower and embedder in float32, loaded through our reader."""
    import timm

    tower = timm.create_model(config.architecture, pretrained=False, **json.loads(config.model_args)).eval()
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            if name == "conv_stem.conv.bias" and not config.stem_bias:
                parameter.zero_()
            else:
                parameter.copy_(source.read_relative(f"{TOWER}{name}"))
    embedder = load_hf_embedder(source, "vision", config.embedder)

    @torch.no_grad()
    def embed(image: np.ndarray) -> np.ndarray:
        out = tower(torch.from_numpy(image)[None].permute(0, 3, 1, 2)).flatten(2).permute(0, 2, 1)
        soft = embedder(inputs_embeds=out * out.shape[-1] ** 0.5)
        return torch.cat((soft, embedder(input_ids=torch.tensor([[config.eoi_id]]))), 1)[0].numpy()

    return embed


def onnx_embed(source: Source, config: VisionConfig, image: np.ndarray) -> np.ndarray:
    """The tower in onnxruntime with float32 weights as inputs; as ``embed``."""
    encoder, adapter = EncodeImage(read_layout(config)), AdaptImage(config, source.text.hidden_size)
    given = {"images": image[None], **weight_inputs(encoder, source.read)}
    features = OnnxSession(export_onnx(encoder, trace_encoder(encoder, image.shape[0]), ["features"]))(given)[
        "features"
    ]
    given = {"features": features, **weight_inputs(adapter, adapter_read(source, config))}
    return OnnxSession(export_onnx(adapter, trace_adapter(adapter), ["mm_embedding"]))(given)["mm_embedding"][0]


def _weights(
    read: Read, specs: Mapping[str, WeightSpec], recipe: Recipe | None, keep: bool, float_activations: bool = False
) -> Weights:
    if recipe is not None:
        return FakeQuantWeights(read, specs, recipe, keep, float_activations)
    return TensorWeights({name: read(s) for name, s in specs.items()}) if keep else LazyWeights(read, specs)


def _check(runtime: str, reference: str, side: int, got: np.ndarray, want: np.ndarray, limit: float) -> Check:
    name = f"{side} x {side} pixels, {len(want) - 1} soft tokens and the end row"
    return Check(name, "vision_encoder", runtime, reference, "relative error", relative_error(got, want), limit)

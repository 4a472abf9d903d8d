"""What a target places on an accelerator, run on one of this machine: against the recipe's reference and the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from g3n_compiler.lower.accelerator import AcceleratorOutputs, AcceleratorRun
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.subgraphs import Subgraph
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.verify.checks import MARGIN, Check, Parity, RanOn, relative_error
from g3n_compiler.verify.golden import GENERATED, PROMPTS, Golden
from g3n_compiler.verify.layers import layer_errors
from g3n_compiler.verify.reference import Reference
from g3n_compiler.verify.text import Expected
from g3n_compiler.verify.vision import VisionReference, golden_image

NEAR = 1e-3
"""Relative error allowed in float32: a driver computes sine, exponential and roots with fewer digits than a CPU."""


def verify_on_accelerator(job: Job, backend: Backend, expected: Expected, rounded: Reference, parity: Parity) -> None:
    """Run what the target places on the accelerator, and add to ``parity`` what was compared and where it ran.

    Of a model that is too large for the references in float32 one layer of each kind and the head are run, each alone,
    on one chunk of a prompt and the tokens after it: a software driver takes minutes for a token of the whole. Of its
    vision encoder the smallest size is run.
    """
    placed = _placed(job)
    if not placed or job.accelerator is None:
        return
    whole = bool(expected.recipe)
    only = None if whole else one_of_each_kind(job.config)
    job.progress(f"running on the GPU: {job.accelerator}")
    sides = job.resolutions if whole else tuple(sorted(job.resolutions)[:1])
    parts = _parts_run(job, only, sides)
    for name in placed:
        if name in parts:
            job.progress(f"note: of {name} the GPU runs {parts[name]}, which takes a software driver minutes")
    if job.sizes:
        job.progress("note: of the sizes the largest runs on the GPU; the others are compared on the CPU alone")
    images = {side: golden_image(side) for side in sides} if "vision_encoder" in placed else {}
    run = AcceleratorRun(
        files=job.files,
        texts=expected.golden if whole else (),
        prompts=PROMPTS if whole else (),
        max_new_tokens=GENERATED,
        layers=expected.golden[0],
        only=only,
        images=images,
    )
    found = backend.run_on_accelerator(job, run)
    checks = list(_layer_checks(job, backend, expected.golden[0], found, only))
    said = [text.text for text in parity.texts if text.runtime == backend.runtime]
    if whole:
        logits = list(_text_checks(job, backend, expected, found))
        reach = 2 * max(c.value for c in logits) * max(float(np.abs(own).max()) for own in expected.recipe)
        limit = MARGIN if job.recipe.name == "fp32" else reach
        checks += [*logits, *_answer_checks(job, backend, rounded, said, found.answers, limit)]
    parity.checks += checks
    if images:
        parity.checks += _image_checks(job, backend, images, found.images)
    parity.ran_on |= {name: RanOn(job.accelerator, parts.get(name)) for name in placed}


def _placed(job: Job) -> list[Subgraph]:
    """The subgraphs of the bundle that the target places on an accelerator."""
    present: dict[Subgraph, bool] = {"core": True, "vision_encoder": job.vision is not None}
    return [name for name, is_there in present.items() if is_there and job.target.place(name).device == "accelerator"]


def one_of_each_kind(config: TextConfig) -> tuple[int, ...]:
    """A layer of each kind: what it attends to, whether its FFN is sparse, and whether it has a KV cache of its own.

    Owners whose caches other layers read are among them, and the last owner, at which a prompt ends.
    """
    owners = {config.kv_owner(i) for i in range(config.num_kv_layers, config.num_layers)} | {config.num_kv_layers - 1}
    chosen = {_kind(config, i): i for i in sorted(owners)}
    for i in range(config.num_layers):
        chosen.setdefault(_kind(config, i), i)
    return tuple(sorted(owners.union(chosen.values())))


def _kind(config: TextConfig, layer: int) -> tuple[bool, bool, bool]:
    return config.is_sliding(layer), config.sparsity[layer] > 0, layer < config.num_kv_layers


def _parts_run(job: Job, only: Sequence[int] | None, sides: Sequence[int]) -> dict[Subgraph, str]:
    """What of each subgraph is run, of those that are not run whole."""
    parts: dict[Subgraph, str] = {}
    if only is not None:
        names = ", ".join(map(str, only))
        parts["core"] = f"layers {names} of {job.config.num_layers}, one of each kind, and the head, each alone"
    if len(sides) < len(job.resolutions):
        parts["vision_encoder"] = " and ".join(f"{side} x {side} pixels" for side in sides)
    return parts


def _layer_checks(
    job: Job, backend: Backend, golden: Golden, found: AcceleratorOutputs, only: Sequence[int] | None
) -> Iterator[Check]:
    """Each layer on its own inputs; a GPU does not quantise activations, so the reference does not either."""
    assert found.layers is not None
    recipe = None if job.recipe.name == "fp32" else job.recipe
    reference = Reference(job.source, recipe, float_activations=True)
    errors = layer_errors(reference, found.layers, golden.ids, golden.prompt, only=only)
    name = f"GPU: each layer alone, {golden.prompt} tokens of prompt, {len(golden.ids) - golden.prompt} decoded"
    parts, note = tuple((part.name, part.worst) for part in errors.parts), f"worst in {errors.steady.name}"
    yield Check(name, "core", backend.runtime, _in_float(job), "relative error", errors.steady.worst, NEAR, note, parts)


def _in_float(job: Job) -> str:
    return _reference(job) if job.recipe.name == "fp32" else f"{_reference(job)}, activations in float"


def _reference(job: Job) -> str:
    return "eager fp32" if job.recipe.name == "fp32" else f"fake-quant {job.recipe.name}"


def _text_checks(job: Job, backend: Backend, expected: Expected, found: AcceleratorOutputs) -> Iterator[Check]:
    # The GPU keeps activations in float32 where the CPU rounds them to 8 bits, so it may be as far off as the CPU.
    limit, reference = NEAR if job.recipe.name == "fp32" else job.recipe.logit_tolerance, _reference(job)
    texts = zip(expected.golden, expected.recipe, found.logits, found.prefilled, strict=True)
    for golden, want, decoded, prefilled in texts:
        for what, got, wanted in (
            (f"{len(golden.ids)} tokens decoded", decoded, want),
            (f"{golden.prompt} tokens prefilled", prefilled, want[golden.prompt - 1 :]),
        ):
            name, error = f"GPU: {what}, {golden.name}", relative_error(got, wanted)
            yield Check(name, "core", backend.runtime, reference, "relative error", error, limit)


def _answer_checks(
    job: Job, backend: Backend, rounded: Reference, said: list[str], found: list[str], reach: float
) -> Iterator[Check]:
    """Each answer is the CPU's, or leaves the reference's where its best two logits are closer than ``reach``."""
    for prompt, here, there in zip(PROMPTS, said, found, strict=True):
        margin = 0.0
        if there != here:
            tokens, margins = rounded.greedy(job.tokenizer.chat(prompt), GENERATED)
            margin = _margin(job.tokenizer.encode(there), job.tokenizer.stop_ids, tokens, margins)
        name, metric = f"GPU: the stock engine's text after {prompt!r}", "margin at first difference"
        yield Check(name, "core", backend.runtime, "the engine on the CPU", metric, margin, reach, there[:80])


def _margin(said: Sequence[int], stop_ids: Sequence[int], tokens: Sequence[int], margins: Sequence[float]) -> float:
    """The reference's margin where an answer leaves its greedy ``tokens``; the end of an answer counts as a token."""
    for i, (token, margin) in enumerate(zip(tokens, margins, strict=True)):
        same = token in stop_ids if i == len(said) else said[i] == token
        if not same:
            return margin
        if i == len(said):
            break
    return 0.0


def _image_checks(
    job: Job, backend: Backend, images: Mapping[int, np.ndarray], found: Mapping[int, np.ndarray]
) -> Iterator[Check]:
    assert job.vision is not None
    exact = job.recipe.name == "fp32"
    reference = VisionReference(job.source, job.vision, None if exact else job.recipe, float_activations=True)
    for side, image in images.items():
        name, error = f"GPU: {side} x {side} pixels", relative_error(found[side], reference.embed(image))
        # The adapter after it runs on the CPU, where a last bit of difference can round an activation the other way.
        limit = NEAR if exact else job.recipe.layer_tolerance
        yield Check(name, "vision_encoder", backend.runtime, _in_float(job), "relative error", error, limit)

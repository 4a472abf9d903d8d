"""What a target places on an accelerator, run on one of this machine: against the recipe's reference and the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from g3n_compiler.lower.accelerator import AcceleratorOutputs, AcceleratorRun
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.subgraphs import Subgraph
from g3n_compiler.verify.checks import MARGIN, Check, Parity, relative_error
from g3n_compiler.verify.golden import GENERATED, PROMPTS
from g3n_compiler.verify.reference import Reference
from g3n_compiler.verify.text import Expected
from g3n_compiler.verify.vision import VisionReference, golden_image

NEAR = 1e-3
"""Relative error allowed in float32: a driver computes sine, exponential and roots with fewer digits than a CPU."""


def verify_on_accelerator(job: Job, backend: Backend, expected: Expected, rounded: Reference, parity: Parity) -> None:
    """Run what the target places on the accelerator, and add to ``parity`` what was compared and where it ran.

    A model that is too large for the references in float32 is not run: a software driver takes minutes for a token.
    """
    placed = _placed(job)
    if not placed or job.accelerator is None or not expected.recipe:
        return
    job.progress(f"running on the GPU: {job.accelerator}")
    images = {side: golden_image(side) for side in job.resolutions} if "vision_encoder" in placed else {}
    run = AcceleratorRun(
        files=job.files, texts=expected.golden, prompts=PROMPTS, max_new_tokens=GENERATED, images=images
    )
    found = backend.run_on_accelerator(job, run)
    said = [text.text for text in parity.texts if text.runtime == backend.runtime]
    checks = list(_text_checks(job, backend, expected, found))
    reach = 2 * max(c.value for c in checks) * max(float(np.abs(logits).max()) for logits in expected.recipe)
    checks += _answer_checks(job, backend, rounded, said, found.answers, MARGIN if job.recipe.name == "fp32" else reach)
    parity.checks += checks
    if images:
        parity.checks += _image_checks(job, backend, images, found.images)
    parity.ran_on |= dict.fromkeys(placed, job.accelerator)


def _placed(job: Job) -> list[Subgraph]:
    """The subgraphs of the bundle that the target places on an accelerator."""
    present: dict[Subgraph, bool] = {"core": True, "vision_encoder": job.vision is not None}
    return [name for name, is_there in present.items() if is_there and job.target.place(name).device == "accelerator"]


def _text_checks(job: Job, backend: Backend, expected: Expected, found: AcceleratorOutputs) -> Iterator[Check]:
    # The GPU keeps activations in float32 where the CPU rounds them to 8 bits, so it may be as far off as the CPU.
    exact = job.recipe.name == "fp32"
    limit = NEAR if exact else job.recipe.logit_tolerance
    reference = "eager fp32" if exact else f"fake-quant {job.recipe.name}"
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
    reference = VisionReference(job.source, job.vision, None if exact else job.recipe)
    for side, image in images.items():
        name, error = f"GPU: {side} x {side} pixels", relative_error(found[side], reference.embed(image))
        limit = NEAR if exact else job.recipe.logit_tolerance
        against = "eager fp32" if exact else f"fake-quant {job.recipe.name}"
        yield Check(name, "vision_encoder", backend.runtime, against, "relative error", error, limit)

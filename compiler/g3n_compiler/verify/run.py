"""Run every comparison for what a compile has lowered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial

import numpy as np

from g3n_compiler.checkpoint.embedded import comes_from_nano
from g3n_compiler.lower.alternates import AlternateInputs, SameNumbers
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.opened import TextEntry, TextModel
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.slice.elastic import Size
from g3n_compiler.source import Source
from g3n_compiler.verify.accelerator import verify_on_accelerator
from g3n_compiler.verify.adapters import adapter_checks
from g3n_compiler.verify.audio import audio_checks, golden_sound
from g3n_compiler.verify.checks import EXACT, SAME, Check, GeneratedText, Parity, is_degenerate, relative_error
from g3n_compiler.verify.float32 import REACH, TransformersLayers, float32_limit, transformers_errors
from g3n_compiler.verify.golden import GENERATED, PROMPTS, Golden, golden_inputs
from g3n_compiler.verify.layers import JITTER
from g3n_compiler.verify.layers import REACH as LAYER_REACH
from g3n_compiler.verify.onnx.checks import onnx_checks
from g3n_compiler.verify.prompts import Spoken
from g3n_compiler.verify.reference import Reference, is_small
from g3n_compiler.verify.tasks import task_scores
from g3n_compiler.verify.text import Expected, artifact_checks
from g3n_compiler.verify.vision import golden_image, vision_checks

HEARD = 2.0
"""Seconds of sound that files which have the model once more are compared on."""
Parts = tuple[tuple[str, float], ...]
Greedy = Callable[[Sequence[int], int], tuple[list[int], list[float]]]
"""``count`` greedy tokens after ids, and their margins if known."""


def verify(job: Job, backends: Mapping[Runtime, Backend]) -> Parity:
    """Compare ``transformers``, onnxruntime and each runtime's artifact; returns all results, passed or failed.

    A model too large for float32 in memory is read once per golden input: its artifact is compared layer by layer, and
    its engine with the graph that was verified in this way. ``transformers`` and onnxruntime hold a model whole, so
    they are left out then; they compare the code, which is the same for small models.
    """
    parity = Parity()
    small = is_small(job.source)
    exact = Reference(job.source)
    rounded = exact if job.recipe.name == "fp32" else Reference(job.source, job.recipe)
    golden = golden_inputs(job.tokenizer, job.config, job.context)
    expected = Expected(golden)
    if small:
        job.progress("running the references")
        expected = _run_references(job.source, golden, exact, rounded)
        job.progress("comparing with transformers")
        parity.checks += _hf_checks(job.source, exact, expected)
        job.progress("comparing with onnxruntime")
        parity.checks += onnx_checks(job.source, golden[1].ids, expected.exact[1], expected.limits[1])
    spoken = Spoken.of(job)
    for runtime, backend in backends.items():
        job.progress(f"comparing the {runtime} artifact")
        parity.checks += artifact_checks(job, backend, expected, rounded)
        job.progress(f"generating with the stock {runtime} engine")
        greedy, reference = (exact.greedy, "eager fp32") if small else (_own_greedy(job, backend), "its own graph")
        _text_checks(job, runtime, backend, spoken, greedy, reference, parity)
        if job.lora_rank:
            job.progress(f"comparing the {runtime} artifact with an adapter")
            parity.checks += adapter_checks(job, backend, golden[-1])
    if comes_from_nano(job.source.checkpoint):
        for runtime, backend in backends.items():
            job.progress(f"asking the {runtime} artifact questions whose answers are known")
            parity.tasks += task_scores(job, backend)
    if job.vision is not None:
        job.progress("comparing the vision tower")
        vision = {runtime: partial(backend.open_vision, job.files) for runtime, backend in backends.items()}
        parity.checks += vision_checks(job, job.vision, vision)
    for backend in backends.values():
        verify_on_accelerator(job, backend, expected, rounded, parity)
    if job.audio is not None:
        job.progress("comparing the audio tower")
        audio = {runtime: partial(backend.open_audio, job.files) for runtime, backend in backends.items()}
        parity.checks += audio_checks(job, job.audio, audio)
    if job.single:
        job.progress("comparing the single programs")
        parity.checks += alternate_checks(job, backends, golden[0])
    for size in job.sizes:
        for backend in backends.values():
            job.progress(f"comparing the size {size.name}")
            parity.checks += size_checks(job, size, backend.of_size(size))
    if job.sizes:
        parity.checks += [_draft_check(job, backend, golden[-1]) for backend in backends.values()]
    return parity


def alternate_checks(job: Job, backends: Mapping[Runtime, Backend], golden: Golden) -> Iterator[Check]:
    """Hold each file that has the model once more against the bundle's own files, and run it in its own engine."""
    image = None if job.vision is None else (golden_image(job.resolutions[0]) * 255).astype(np.uint8)
    sound = None if job.audio is None else golden_sound(HEARD)
    inputs = AlternateInputs(golden.ids, golden.prompt, PROMPTS[0], GENERATED, image, sound)
    rounding = EXACT if job.recipe.name == "fp32" else job.recipe.logit_tolerance
    for runtime, backend in backends.items():
        for found in backend.alternates(job, inputs):
            if isinstance(found, SameNumbers):
                error, limit = relative_error(found.got, found.want), rounding if found.rounds else SAME
                yield Check(
                    found.what, found.subgraph, runtime, "the bundle's own files", "relative error", error, limit
                )
            else:
                different = float(found.got != found.want)
                yield Check(found.what, "core", runtime, "its own graph", "different", different, 0.0, found.got[:80])


def _draft_check(job: Job, backend: Backend, golden: Golden) -> Check:
    """Compare the logits of several tokens in one call with those of one call per token."""
    _, model = next(backend.open_models(job.files))
    want = model.prefilled_logits(golden.ids, golden.prompt)
    error = relative_error(backend.verified_logits(job.files, golden.ids, golden.prompt), want)
    limit = EXACT if job.recipe.name == "fp32" else job.recipe.logit_tolerance
    what = f"{len(want)} tokens verified as drafts are"
    return Check(what, "core", backend.runtime, "its own decode", "relative error", error, limit)


def size_checks(job: Job, size: Size, entry: TextEntry) -> list[Check]:
    """Compare ``entry``, a smaller ``size`` of an elastic bundle, with the reference for that slice."""
    source = job.source.sliced(size.plan, size.config)
    own = replace(job, source=source, sizes=())
    exact = Reference(source)
    rounded = exact if job.recipe.name == "fp32" else Reference(source, job.recipe)
    golden = golden_inputs(job.tokenizer, job.config, job.context)
    small = is_small(source)
    expected = _run_references(source, golden, exact, rounded) if small else Expected(golden)
    checks = _hf_checks(source, exact, expected) if small else []
    checks += artifact_checks(own, entry, expected, rounded)
    return [replace(c, subgraph=f"{c.subgraph} of {size.name}") for c in checks]


def _run_references(source: Source, golden: list[Golden], exact: Reference, rounded: Reference) -> Expected:
    exact_logits = [exact.logits(g.ids).numpy() for g in golden]
    limits = [float32_limit(exact, source, g.ids, own) for g, own in zip(golden, exact_logits, strict=True)]
    recipe_logits = exact_logits if rounded is exact else [rounded.logits(g.ids).numpy() for g in golden]
    return Expected(golden, exact_logits, recipe_logits, limits)


def _own_greedy(job: Job, backend: Backend) -> Greedy:
    """Greedy tokens of the artifact itself, to compare an engine with if no reference can be run."""

    @cache
    def model() -> TextModel:
        return next(backend.open_models(job.files))[1]

    return lambda ids, count: (model().greedy(ids, count), [])


def _hf_checks(source: Source, exact: Reference, expected: Expected) -> list[Check]:
    """Hold ours against ``transformers``: its logits, as close as float32 allows, and each of its layers alone.

    ``transformers`` has the weights as they are in the checkpoint, so that a rewrite that is not exact is found.
    """
    hf, checks = source.family.load_transformers(source.original), list[Check]()

    def check(name: str, value: float, limit: float, note: str = "", parts: Parts = ()) -> None:
        checks.append(Check(name, "core", "eager", "transformers fp32", "relative error", value, limit, note, parts))

    for g, ours, limit in zip(expected.golden, expected.exact, expected.limits, strict=True):
        layers = TransformersLayers(hf, exact.tables, g.ids)
        note = "" if limit == EXACT else f"float32 and float64 differ by {limit / REACH:.2g} here"
        check(f"{g.name}, {len(g.ids)} tokens", relative_error(ours, layers.logits), limit, note)
        errors = transformers_errors(exact, layers, g.ids)
        parts = tuple((part.name, part.worst) for part in errors.parts)
        name = f"{g.name}: each layer alone, {len(g.ids)} tokens"
        check(name, errors.steady.worst, EXACT, f"worst in {errors.steady.name}", parts)
        for part in errors.sensitive:
            assert part.own is not None
            moved = f"ours moves by {part.own:.2g} when its input does by {JITTER:g}"
            check(f"{g.name}: {part.name} alone", part.worst, LAYER_REACH * part.own, moved)
    return checks


def _text_checks(
    job: Job, runtime: Runtime, backend: Backend, spoken: Spoken, greedy: Greedy, reference: str, parity: Parity
) -> None:
    config, tokenizer = job.config, job.tokenizer.loaded()
    # All of the engine's answers first, before the artifact is opened, so that only one of them is in memory.
    answers = backend.answers(job, PROMPTS, GENERATED, list(spoken.conversations.values()))
    parity.checks.append(spoken.check(runtime, answers.prompts))
    for prompt, text in zip(PROMPTS, answers.texts, strict=True):
        tokens, _ = greedy(tokenizer.chat(prompt), GENERATED)
        stop = next((i for i, t in enumerate(tokens) if t in job.tokenizer.stop_ids), len(tokens))
        said = tokenizer.encode(text)
        broken = is_degenerate(said, config.pad_id) and not is_degenerate(tokens[:stop], config.pad_id)
        parity.texts.append(GeneratedText(runtime, prompt, text, tokenizer.decode(tokens[:stop])))
        parity.checks.append(
            Check(f"text after {prompt!r}", "core", runtime, reference, "degenerate", float(broken), 0.0, text[:80])
        )

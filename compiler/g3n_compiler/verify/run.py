"""Run every comparison for what a compile has lowered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from g3n_compiler.lower.backend import Backend, Job, TextModel
from g3n_compiler.lower.onnx.parity import onnx_checks
from g3n_compiler.modules.embedder import EmbeddingTables
from g3n_compiler.targets import Runtime
from g3n_compiler.verify.audio import audio_checks
from g3n_compiler.verify.golden import GENERATED, PROMPTS, Golden, golden_inputs
from g3n_compiler.verify.parity import (
    EXACT,
    MARGIN,
    Check,
    GeneratedText,
    Parity,
    greedy_margin,
    is_degenerate,
    relative_error,
)
from g3n_compiler.verify.reference import Reference, hf_logits, is_small, load_hf
from g3n_compiler.verify.vision import vision_checks


@dataclass(frozen=True)
class Expected:
    """The references' answers to the golden inputs."""

    golden: list[Golden]
    exact: list[np.ndarray]
    recipe: list[np.ndarray]


def verify(job: Job, backends: Mapping[Runtime, Backend]) -> Parity:
    """Compare HF eager, onnxruntime and each runtime's artifact; returns all results, passed or not."""
    parity = Parity()
    exact = Reference(job.checkpoint)
    rounded = exact if job.recipe.name == "fp32" else Reference(job.checkpoint, job.recipe)
    golden = golden_inputs(job.tokenizer, job.config, job.context)
    job.progress("running the references")
    exact_logits = [exact.logits(g.ids).numpy() for g in golden]
    recipe_logits = exact_logits if rounded is exact else [rounded.logits(g.ids).numpy() for g in golden]
    expected = Expected(golden, exact_logits, recipe_logits)
    if is_small(job.checkpoint):
        job.progress("comparing with transformers")
        parity.checks += _hf_checks(job, expected)
    job.progress("comparing with onnxruntime")
    parity.checks += onnx_checks(job.checkpoint, golden[1].ids, exact_logits[1])
    for runtime, backend in backends.items():
        job.progress(f"comparing the {runtime} artifact")
        for entry, model in backend.open_models(job.directory).items():
            parity.checks += _artifact_checks(job, runtime, entry, model, expected, rounded)
        job.progress(f"generating with the stock {runtime} engine")
        _text_checks(job, runtime, backend, exact, parity)
    if job.vision is not None:
        job.progress("comparing the vision tower")
        towers = {runtime: backend.open_towers(job.directory).vision for runtime, backend in backends.items()}
        parity.checks += vision_checks(job, job.vision, towers)
    if job.audio is not None:
        job.progress("comparing the audio tower")
        ears = {runtime: backend.open_towers(job.directory).audio for runtime, backend in backends.items()}
        parity.checks += audio_checks(job, job.audio, ears)
    return parity


def _hf_checks(job: Job, expected: Expected) -> list[Check]:
    model = load_hf(job.checkpoint)
    return [
        Check(
            f"{g.name}, {len(g.ids)} tokens",
            "core",
            "eager",
            "transformers fp32",
            "relative error",
            relative_error(ours, hf_logits(model, g.ids).numpy()),
            EXACT,
        )
        for g, ours in zip(expected.golden, expected.exact, strict=True)
    ]


def _artifact_checks(
    job: Job, runtime: Runtime, entry: str, model: TextModel, expected: Expected, rounded: Reference
) -> list[Check]:
    exact = job.recipe.name == "fp32"
    limit = EXACT if exact else job.recipe.logit_tolerance
    reference = "eager fp32" if exact else f"fake-quant {job.recipe.name}"

    def core(what: str, metric: str, value: float, most: float) -> Check:
        return Check(f"{entry}: {what}", "core", runtime, reference, metric, value, most)

    checks = _table_checks(job, runtime, model, rounded.tables, reference)
    errors = []
    for g, want in zip(expected.golden, expected.recipe, strict=True):
        error = relative_error(model.logits(g.ids), want)
        errors.append(error)
        checks.append(core(f"{len(g.ids)} tokens decoded, {g.name}", "relative error", error, limit))
        error = relative_error(model.prefilled_logits(g.ids, g.prompt), want[g.prompt - 1 :])
        checks.append(core(f"{g.prompt} tokens prefilled, {g.name}", "relative error", error, limit))
    ids = expected.golden[0].ids
    tokens, margins = rounded.greedy(ids, GENERATED)
    margin = greedy_margin(model.greedy(ids, GENERATED), tokens, margins)
    # Two logits that are each off by the worst error can change places only if they were twice that close.
    reach = 2 * max(errors) * float(np.abs(expected.recipe[0]).max())
    most = MARGIN if exact else reach
    return [*checks, core(f"{GENERATED} greedy tokens", "margin at first difference", margin, most)]


def _table_checks(job: Job, runtime: Runtime, model: TextModel, tables: EmbeddingTables, reference: str) -> list[Check]:
    """Rows of both emitted tables, with the ids on either side of where the per-layer table ends."""
    config = job.config
    ids = [0, 1, config.bos_id, config.ple_vocab_size - 1, min(config.ple_vocab_size, config.vocab_size - 1)]
    ids.append(config.vocab_size - 1)
    pairs: tuple[tuple[str, np.ndarray, np.ndarray], ...] = (
        ("token_embedding", model.embeddings(ids), tables.embeddings(ids)[0].numpy()),
        ("per_layer_embedding", model.ple(ids), tables.ple(ids).numpy().reshape(len(ids), -1)),
    )
    return [
        Check(f"{len(ids)} rows", name, runtime, reference, "relative error", relative_error(got, want), EXACT)
        for name, got, want in pairs
    ]


def _text_checks(job: Job, runtime: Runtime, backend: Backend, exact: Reference, parity: Parity) -> None:
    tokenizer, config = job.tokenizer, job.config
    for prompt in PROMPTS:
        text = "".join(backend.generate(job.directory, prompt, GENERATED))
        tokens, _ = exact.greedy(tokenizer.chat(prompt), GENERATED)
        stop = next((i for i, t in enumerate(tokens) if t in tokenizer.stop_ids), len(tokens))
        said = tokenizer.encode(text)
        broken = is_degenerate(said, config.pad_id) and not is_degenerate(tokens[:stop], config.pad_id)
        parity.texts.append(GeneratedText(runtime, prompt, text, tokenizer.decode(tokens[:stop])))
        parity.checks.append(
            Check(f"text after {prompt!r}", "core", runtime, "eager fp32", "degenerate", float(broken), 0.0, text[:80])
        )

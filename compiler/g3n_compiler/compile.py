"""The whole pipeline from a checkpoint to a verified bundle, stage by stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from g3n_compiler.bundle.compile_needs import compile_needs, require
from g3n_compiler.bundle.fingerprint import DRAWING, bundle_key
from g3n_compiler.bundle.manifest import VERSIONS, Provenance, build_manifest, write_manifest
from g3n_compiler.bundle.signing import sign_bundle
from g3n_compiler.bundle.staging import staged
from g3n_compiler.bundle.up_to_date import is_up_to_date, sign_again
from g3n_compiler.checkpoint.calibrated import read_calibration
from g3n_compiler.heap import release_free_memory
from g3n_compiler.lower.artifact import join
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.job import Job, Progress
from g3n_compiler.lower.registry import get_backend
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.quantize.recipe import AUTO, Recipe
from g3n_compiler.quantize.saved import as_json, recipe_of
from g3n_compiler.report import REPORT, write_report
from g3n_compiler.request.capabilities import fewest_bits
from g3n_compiler.request.open import open_request
from g3n_compiler.request.options import CompileOptions
from g3n_compiler.request.request import Request
from g3n_compiler.source import Source
from g3n_compiler.verify.loss import Loss
from g3n_compiler.verify.measure_loss import measure_loss
from g3n_compiler.verify.prompts import require_equal_prompts
from g3n_compiler.verify.run import verify
from g3n_compiler.verify.tower_loss import measure_towers
from g3n_compiler.widths.choose import choose_recipe


class Outcome(NamedTuple):
    """A bundle, and how it came to be there."""

    directory: Path
    up_to_date: bool
    """Nothing was compiled: it was there, and is what the compile would have made."""


def compile_bundle(
    options: CompileOptions, progress: Progress, backend_for: Callable[[Runtime], Backend] = get_backend
) -> Path:
    """As :func:`compile_or_keep`; returns the bundle's folder."""
    return compile_or_keep(options, progress, backend_for).directory


def compile_or_keep(
    options: CompileOptions, progress: Progress, backend_for: Callable[[Runtime], Backend] = get_backend
) -> Outcome:
    """Compile a bundle, verify it and write it, unless it is there already and all of it is what would be written.

    Raises:
        G3nError: what was found, what was expected and what to do; nothing is left that looks like a bundle.
    """
    request = open_request(options, backend_for, progress)
    source, backends = request.source, request.backends
    # Hashing takes less time than comparing prompts, and may show that the bundle is up to date.
    may_be_kept = request.destination.existing is not None and not options.force
    try:
        job = _job(request, progress)
        for backend in backends.values():
            backend.require_possible(job)
        if not may_be_kept:
            _compare_prompts(job, backends)
        release_free_memory()
        progress("hashing the checkpoint")
        hashes = source.checkpoint.survey(request.account.used, progress, progress)
        packages = {*VERSIONS, *DRAWING, *(package for backend in backends.values() for package in backend.packages)}
        key = bundle_key(source.directory, hashes, request.decides_bytes(), sorted(packages))
        if not options.force and is_up_to_date(request.destination, key):
            request.inputs.require_unchanged()
            sign_again(request.destination, key, options.sign, progress)
            return Outcome(request.out, up_to_date=True)
        config, singles = gemma3n_config(source.text), len(request.single)
        towers = [
            list(source.family.towers[t].weights(source).values()) for t in source.towers if t in source.modalities
        ]
        needs = compile_needs(config, request.recipe, list(backends.values()), singles, towers)
        progress(require(needs, request.destination.path))
        with staged(request.destination, key) as (directory, steps):
            if may_be_kept:
                _compare_prompts(job, backends)
            job = replace(job, source=_rewritten(request, progress), directory=directory, steps_folder=steps)
            job = replace(job, recipe=_recipe(job, request))
            loss = _loss(job, request)
            lowered = join(backend.lower(job) for backend in backends.values())
            request.bounds.require_size(lowered, directory)
            job = replace(job, files=lowered.paths(directory))
            parity = verify(job, backends)
            parity.checks += [] if loss is None else loss.check()
            parity.require()
            progress("writing the manifest and the report")
            manifest = build_manifest(job, backends, lowered, parity, Provenance.of(request, hashes, key), loss)
            write_report(directory, manifest)
            write_manifest(directory, manifest, REPORT)
            request.inputs.require_unchanged()
            if options.sign is not None:
                sign_bundle(directory, manifest, options.sign)
    finally:
        source.close()
    return Outcome(request.out, up_to_date=False)


def _job(request: Request, progress: Progress) -> Job:
    """What is asked for, before there is a folder to write to."""
    return Job(
        source=request.source,
        tokenizer=request.tokenizer,
        recipe=request.recipe,
        target=request.target,
        context=request.context,
        prefill_lengths=request.prefill_lengths,
        directory=request.destination.path,
        progress=progress,
        resolutions=request.resolutions,
        tools=request.tools,
        lora_rank=request.lora_rank,
        single=request.single,
        stem=request.stem,
        sizes=request.sizes[1:],
        accelerator=request.accelerator,
    )


def _compare_prompts(job: Job, backends: Mapping[Runtime, Backend]) -> None:
    job.progress("comparing prompts with transformers")
    require_equal_prompts(job, backends)
    job.tokenizer.forget()


def _loss(job: Job, request: Request) -> Loss | None:
    """What the recipe costs on the held texts, measured once however often the compile is interrupted.

    Raises:
        LossError: more is lost than was allowed.
    """
    held = request.held
    if held is None:
        return None
    what = f"measuring what {job.recipe.name} costs on {held.predicted} tokens of {held.origin}"

    def measure() -> dict[str, Any]:
        sizes = {
            size.name: measure_loss(job.source.sliced(size.plan, size.config), job.recipe, held).figures
            for size in job.sizes
        }
        towers = measure_towers(job.source, job.recipe, job.resolutions)
        return replace(measure_loss(job.source, job.recipe, held), towers=towers, sizes=sizes).as_json()

    loss = Loss.of_json(job.steps.value("loss.json", measure, what))
    calibration = read_calibration(job.source.directory)
    if calibration is not None and calibration.loss is not None and calibration.loss["texts_sha256"] == held.sha256:
        loss = loss.of_calibrated(calibration.loss)
    if request.bounds.loss is not None:
        loss.require(request.bounds.loss)
    return loss


def _recipe(job: Job, request: Request) -> Recipe:
    """The recipe that is lowered: the one that was asked for or, if it is to be chosen, the choice, made once."""
    if job.recipe.name != AUTO:
        return job.recipe
    held = request.held
    assert held is not None, "what is rounded has texts to measure it on"
    what = f"choosing the bits of each matrix on {held.origin}"
    narrowest = fewest_bits(request.target, request.backends)
    made = job.steps.value("widths.json", lambda: as_json(choose_recipe(job, held, request.bounds, narrowest)), what)
    return recipe_of({"recipe": {"name": AUTO, **made}})


def _rewritten(request: Request, progress: Progress) -> Source:
    """The source that is lowered: rewritten if the recipe asks for it, but a calibrated one stays as it was rounded."""
    source = request.source
    if not request.recipe.rewrites or read_calibration(source.directory) is not None:
        return source
    progress("choosing how to spread the weights' scales before they are rounded")
    return source.rewritten()

"""The whole pipeline from a checkpoint to a verified bundle, stage by stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from g3n_compiler.bundle.compile_needs import compile_needs, require
from g3n_compiler.bundle.fingerprint import bundle_key
from g3n_compiler.bundle.manifest import Provenance, build_manifest, write_manifest
from g3n_compiler.bundle.signing import sign_bundle
from g3n_compiler.bundle.staging import staged
from g3n_compiler.heap import release_free_memory
from g3n_compiler.lower.artifact import join
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.job import Job, Progress
from g3n_compiler.lower.registry import get_backend
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.report import REPORT, write_report
from g3n_compiler.request import CompileOptions, open_request
from g3n_compiler.verify.run import verify


def compile_bundle(
    options: CompileOptions, progress: Progress, backend_for: Callable[[Runtime], Backend] = get_backend
) -> Path:
    """Compile a bundle, verify it and write it; returns its folder.

    Raises:
        G3nError: what was found, what was expected and what to do; nothing is left that looks like a bundle.
    """
    request = open_request(options, backend_for, progress)
    source, backends = request.source, request.backends
    try:
        release_free_memory()
        needs = compile_needs(gemma3n_config(source.text), request.recipe, list(backends.values()))
        progress(require(needs, request.destination.path))
        progress("hashing the checkpoint")
        hashes = source.checkpoint.sha256()
        packages = sorted({package for backend in backends.values() for package in backend.packages})
        key = bundle_key(source.directory, hashes, request.decides_bytes(), packages)
        with staged(request.destination, key) as (directory, steps):
            job = Job(
                source=source,
                tokenizer=request.tokenizer,
                recipe=request.recipe,
                target=request.target,
                context=request.context,
                prefill_lengths=request.prefill_lengths,
                directory=directory,
                progress=progress,
                resolutions=request.resolutions,
                steps_folder=steps,
                sizes=request.sizes[1:],
            )
            lowered = join(backend.lower(job) for backend in backends.values())
            parity = verify(job, backends)
            parity.require()
            progress("writing the manifest and the report")
            manifest = build_manifest(job, backends, lowered, parity, Provenance.of(request, hashes))
            write_report(directory, manifest)
            write_manifest(directory, manifest, REPORT)
            request.inputs.require_unchanged()
            if options.sign is not None:
                sign_bundle(directory, manifest, options.sign)
    finally:
        source.close()
    return request.out

"""Write ``manifest.json``: everything a loader needs to know before it opens a file, and how it was proven.

The same input gives the same bytes: no times, no machine's paths.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from g3n_compiler.bundle.litertlm import entry_points, sections
from g3n_compiler.bundle.memory import kv_bytes, kv_layers, memory_ledger
from g3n_compiler.checkpoint.calibrated import read_calibration
from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.checkpoint.image_processor import load_resample
from g3n_compiler.checkpoint.ledger import Ledger
from g3n_compiler.checkpoint.reader import Checkpoint, file_sha256
from g3n_compiler.checkpoint.tokenizer import PROMPT
from g3n_compiler.lower.backend import Delegation, Job, Lowered, LoweredSubgraph
from g3n_compiler.modules.weights import parameter_count, text_weights
from g3n_compiler.partition import Placed
from g3n_compiler.slice.view import SlicedCheckpoint
from g3n_compiler.targets import Target
from g3n_compiler.verify.parity import Parity
from g3n_runtime.audio import AUDIO_STREAM
from g3n_runtime.bundle import MANIFEST, SCHEMA_VERSION, schema
from g3n_runtime.elastic import signature_of
from g3n_runtime.errors import BundleError
from g3n_runtime.manifest_check import fault
from g3n_runtime.seal import sealed

VERSIONS = ("torch", "executorch", "litert-torch", "ai-edge-litert", "litert-lm", "onnx", "onnxruntime", "transformers")
GEMMA_LICENSE = {
    "name": "Gemma Terms of Use",
    "notice": "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
    "terms": "https://ai.google.dev/gemma/terms",
}
NANO_LICENSE = {
    "name": "Apache-2.0",
    "notice": "Trained by this project on the King James Bible (public domain) and WordNet 3.0 (Copyright 2006 by "
    "Princeton University, all rights reserved, https://wordnet.princeton.edu/license-and-commercial-use).",
    "terms": "https://www.apache.org/licenses/LICENSE-2.0",
}


@dataclass(frozen=True)
class Provenance:
    """Where a bundle came from."""

    size: str
    modalities: tuple[str, ...]
    checkpoint: Mapping[str, str]
    adapter: Mapping[str, str] | None
    ledger: Ledger
    command: str
    slice_reason: str | None = None
    largest: str | None = None
    """What the largest size of an elastic bundle is called."""


def build_manifest(
    name: str, job: Job, target: Target, placed: Sequence[Placed], lowered: Lowered, parity: Parity, origin: Provenance
) -> dict[str, Any]:
    """The manifest of the files that lie in ``job.directory``, checked against the schema."""
    config, recipe = job.config, job.recipe
    runtimes = dict.fromkeys(p.subgraph.runtime for p in placed)
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": name,
        "model": {
            "family": "gemma3n",
            "size": origin.size,
            "modalities": list(origin.modalities),
            "parameters": parameter_count(config),
            "slice": _slice(job.checkpoint, origin.slice_reason),
        },
        "target": {"name": target.name, "placement": {k: asdict(v) for k, v in target.placement.items()}},
        "recipe": {
            "name": recipe.name,
            "roles": {role: scheme.label for role, scheme in recipe.roles.items()},
            "patterns": {pattern: scheme.label for pattern, scheme in recipe.patterns},
        },
        "context": job.context,
        "prefill_lengths": list(job.prefill_lengths),
        "kv": {"dtype": "float32", "bytes": kv_bytes(config, job.context), "layers": kv_layers(config, job.context)},
        "vision": _vision(job),
        "audio": _audio(job, lowered),
        "files": [_file(job.directory, f.path, f.role) for f in lowered.files],
        "subgraphs": [_subgraph(p, recipe.name, parity) for p in placed],
        "tokenizer": {
            "role": "tokenizer",
            "sentencepiece_from": job.tokenizer.sentencepiece_origin,
            "bos_id": job.tokenizer.bos_id,
            "stop_ids": list(job.tokenizer.stop_ids),
        },
        "template": {"prompt": PROMPT, "jinja": job.tokenizer.chat_template},
        "sampler": asdict(job.tokenizer.sampler),
        "memory": {
            r: memory_ledger(config, recipe, job.context, max(job.prefill_lengths), r, lowered.subgraphs)
            for r in runtimes
        },
        "parity": parity.as_dict(),
        "provenance": {
            "checkpoint": dict(origin.checkpoint),
            "adapter": None if origin.adapter is None else dict(origin.adapter),
            "dead_tensors": origin.ledger.dead,
            "left_out": origin.ledger.left_out,
            "versions": {package: version(package) for package in ("g3n", *VERSIONS)},
            "command": origin.command,
        },
        "license": NANO_LICENSE if origin.size == "nano" else GEMMA_LICENSE,
    }
    if origin.largest is not None:
        manifest |= _elastic(job, origin.largest, lowered, parity)
    if (calibration := read_calibration(job.checkpoint.directory)) is not None:
        manifest["provenance"]["calibration"] = asdict(calibration)
    if (wrong := fault(manifest, schema())) is not None:
        raise BundleError(f"the manifest of {name} {wrong}: this is a fault of g3n")
    return manifest


def _elastic(job: Job, largest: str, lowered: Lowered, parity: Parity) -> dict[str, Any]:
    """The sizes, the largest, which the stock engine runs, first; and where our loop finds all of them."""
    path = next(job.directory / f.path for f in lowered.files if f.role == "litertlm")
    core = next(s for s in lowered.subgraphs if s.name == "core")
    every = tuple(range(job.config.num_layers))
    whole = _size(job, largest, job.config, every, core.delegation, parity.worst("litert", "core"), core.signatures)
    sizes = [whole]
    for size in job.sizes:
        worst = parity.worst("litert", f"core of {size.name}")
        names = tuple(signature_of(size.name, name) for name in core.signatures)
        sizes.append(_size(job, size.name, size.config, size.rows, lowered.sizes[size.name], worst, names))
    return {"sizes": sizes, "elastic": entry_points(path)}


def _size(
    job: Job,
    name: str,
    config: TextConfig,
    rows: Sequence[int],
    delegation: Delegation | None,
    parity: float | None,
    signatures: Sequence[str],
) -> dict[str, Any]:
    """One size; ``layers`` counts as the largest does, ``core_bytes`` are those of the weights that it reads."""
    core = sum(job.recipe.scheme(spec).nbytes(spec.shape) for spec in text_weights(config).values())
    part = LoweredSubgraph("core", "litert", "", "", core, (), None)
    memory = memory_ledger(config, job.recipe, job.context, max(job.prefill_lengths), "litert", [part])
    return {
        "name": name,
        "parameters": parameter_count(config),
        "layers": list(rows),
        "ffn_dims": list(config.ffn_dims),
        "core_bytes": core,
        "peak": memory["peak"],
        "least_device_ram": memory["least_device_ram"],
        "signatures": list(signatures),
        "delegation": None if delegation is None else asdict(delegation),
        "parity": parity,
    }


def _audio(job: Job, lowered: Lowered) -> dict[str, Any] | None:
    """The audio tower; ``stream`` is where the streaming step's model lies in the ``.litertlm``."""
    if job.audio is None:
        return None
    path = next((job.directory / f.path for f in lowered.files if f.role == "litertlm"), None)
    stream = None if path is None else next((s for s in sections(path) if s.kind == AUDIO_STREAM), None)
    return {
        "soft_tokens": job.audio.max_soft_tokens,
        "frames_per_token": job.audio.frames_per_token,
        "stream": None if stream is None else [stream.begin, stream.end],
    }


def write_manifest(directory: Path, manifest: dict[str, Any], report: str) -> None:
    """Write the manifest, which vouches for the file ``report`` and, by its own digest, for itself."""
    entry = _file(directory, report, "report")
    del entry["role"]
    whole = sealed({**manifest, "report": entry})
    if (wrong := fault(whole, schema())) is not None:
        raise BundleError(f"the manifest of {manifest['name']} {wrong}: this is a fault of g3n")
    (directory / MANIFEST).write_bytes(manifest_bytes(whole))


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as it is written."""
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()


def _slice(checkpoint: Checkpoint, reason: str | None) -> dict[str, Any]:
    """The shape of what was compiled and, for a MatFormer slice, what was cut from what."""
    config = checkpoint.text
    shape: dict[str, Any] = {
        "num_layers": config.num_layers,
        "ffn_dims": list(config.ffn_dims),
        "num_kv_shared_layers": config.num_kv_shared_layers,
        "layer_types": list(config.layer_types),
    }
    if isinstance(checkpoint, SlicedCheckpoint):
        shape |= {"kept": list(checkpoint.plan.kept), "of": list(checkpoint.source.ffn_dims), "reason": reason}
    return shape


def _vision(job: Job) -> dict[str, Any] | None:
    """What a front end needs to know about images."""
    if job.vision is None:
        return None
    return {
        "image_sizes": list(job.resolutions),
        "soft_tokens": job.vision.soft_tokens,
        "resample": load_resample(job.checkpoint.directory),
    }


def _file(directory: Path, path: str, role: str) -> dict[str, Any]:
    full = directory / path
    return {"path": path, "role": role, "sha256": file_sha256(full), "bytes": full.stat().st_size}


def _subgraph(placed: Placed, recipe: str, parity: Parity) -> dict[str, Any]:
    s = placed.subgraph
    return {
        "name": s.name,
        "runtime": s.runtime,
        "role": s.role,
        "sha256": s.digest,
        "bytes": s.nbytes,
        "device": placed.placement.device,
        "backend": placed.placement.delegate,
        "signatures": list(s.signatures),
        "recipe": recipe,
        "delegation": None if s.delegation is None else asdict(s.delegation),
        "parity": parity.worst(s.runtime, s.name),
    }

"""Write ``manifest.json``: everything a loader needs to know before it opens a file, and how it was verified.

The same input gives the same bytes: no times and no paths of this machine.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from g3n_compiler.bundle.license import license_of
from g3n_compiler.checkpoint.calibrated import read_calibration
from g3n_compiler.checkpoint.hub_id import hub_origin, is_commit
from g3n_compiler.checkpoint.reader import file_sha256
from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.lower.artifact import Delegation, Lowered, LoweredSubgraph
from g3n_compiler.lower.backend import Backend
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.memory import kv_bytes, kv_layers
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.image_processor import load_resample
from g3n_compiler.models.gemma3n.text_config import TextConfig, gemma3n_config
from g3n_compiler.models.registry import parameter_count, text_weights
from g3n_compiler.quantize.saved import as_json
from g3n_compiler.request.request import Request
from g3n_compiler.source import Source
from g3n_compiler.targets import Placement
from g3n_compiler.tensor_account import Account
from g3n_compiler.verify.checks import Parity, RanOn
from g3n_compiler.verify.loss import Loss
from g3n_runtime.bundle import MANIFEST, SCHEMA_VERSION, schema
from g3n_runtime.errors import BundleError
from g3n_runtime.json_digest import with_digest
from g3n_runtime.litert.elastic_names import signature_of
from g3n_runtime.manifest_check import fault

VERSIONS = ("torch", "executorch", "litert-torch", "ai-edge-litert", "litert-lm", "onnx", "onnxruntime", "transformers")


@dataclass(frozen=True)
class Provenance:
    """Where a bundle came from."""

    name: str
    size: str
    checkpoint: Mapping[str, str]
    account: Account
    command: str
    fingerprint: str
    """Hash of everything that the bundle's bytes depend on."""
    slice_reason: str | None = None
    largest: str | None = None
    """The name of an elastic bundle's largest size."""

    @classmethod
    def of(cls, request: Request, hashes: Mapping[str, str], fingerprint: str) -> Provenance:
        return cls(
            request.name,
            request.size,
            hashes,
            request.account,
            request.command,
            fingerprint,
            None if request.choice is None else request.choice.why,
            request.sizes[0].name if request.sizes else None,
        )


def build_manifest(
    job: Job,
    backends: Mapping[Runtime, Backend],
    lowered: Lowered,
    parity: Parity,
    origin: Provenance,
    loss: Loss | None = None,
) -> dict[str, Any]:
    """The manifest for the files in ``job.directory``, checked against the schema.

    Args:
        loss: what the recipe costs, if it rounds anything.
    """
    config, recipe, source, target = job.config, job.recipe, job.source, job.target
    adapter, calibration = source.adapter, read_calibration(source.directory)
    fields: dict[str, Any] = {}
    for backend in backends.values():
        fields |= backend.manifest_fields(job, lowered)
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "name": origin.name,
        "model": {
            "family": config.family,
            "size": origin.size,
            "modalities": list(source.modalities),
            "parameters": parameter_count(config),
            "slice": _slice(source, origin.slice_reason),
        },
        "target": {
            "name": target.name,
            "placement": {k: _placed(v, parity.ran_on.get(k)) for k, v in target.placement.items()},
        },
        "recipe": {
            "name": recipe.name,
            **as_json(recipe),
            "rewritten": source.rewrites is not None,
        },
        "context": job.context,
        "prefill_lengths": list(job.prefill_lengths),
        "kv": {"dtype": "float32", "bytes": kv_bytes(config, job.context), "layers": kv_layers(config, job.context)},
        "vision": _vision(job),
        "audio": _audio(job),
        "files": [_file(job.directory, f.path, f.role) for f in lowered.files],
        "subgraphs": [_subgraph(s, target.place(s.name), recipe.name, parity) for s in lowered.subgraphs],
        "tokenizer": {
            "role": "tokenizer",
            "sentencepiece_from": job.tokenizer.sentencepiece_origin,
            "bos_id": job.tokenizer.bos_id,
            "stop_ids": list(job.tokenizer.stop_ids),
            "stop_texts": list(job.tokenizer.stop_texts),
        },
        "template": template_fields(job.tokenizer),
        "sampler": asdict(job.tokenizer.sampler),
        "memory": {runtime: _memory(job, backend, lowered) for runtime, backend in backends.items()},
        "parity": parity.as_dict(),
        "provenance": {
            "checkpoint": dict(origin.checkpoint),
            "adapter": None if adapter is None else dict(adapter.sha256),
            "dead_tensors": origin.account.dead,
            "left_out": origin.account.left_out,
            "versions": {package: version(package) for package in ("g3n", *VERSIONS)},
            "command": origin.command,
            "fingerprint": origin.fingerprint,
        },
        "license": license_of(origin.checkpoint, None if calibration is None else calibration.source),
    }
    if loss is not None:
        manifest["loss"] = loss.as_json()
    if origin.largest is not None:
        manifest |= {"sizes": _sizes(job, origin.largest, backends, lowered, parity)}
    if calibration is not None:
        manifest["provenance"]["calibration"] = asdict(calibration)
    # By where it lies, not by what was typed: the same files give the same bundle, wherever they came from.
    hub = hub_origin(source.directory)
    if hub is not None and hub.revision is not None and is_commit(hub.revision):
        manifest["provenance"]["hub"] = {"id": hub.repo, "revision": hub.revision}
    manifest |= fields
    if (wrong := fault(manifest, schema())) is not None:
        raise BundleError(f"the manifest of {origin.name} {wrong}: this is a fault of g3n")
    return manifest


def template_fields(tokenizer: TextTokenizer) -> dict[str, Any]:
    """The chat template, for whatever renders Jinja, and the same as texts, for what does not."""
    template, turns = tokenizer.template, tokenizer.turns
    return {
        "jinja": template.jinja,
        "variables": dict(template.variables),
        "content": template.content,
        "media": template.media,
        "placeholders": dict(template.placeholders),
        "turns": None if turns is None else turns.as_json(),
        "no_turns": tokenizer.no_turns,
    }


def _placed(placement: Placement, ran_on: RanOn | None) -> dict[str, Any]:
    """Where a subgraph runs, and what ran it here: by the delegate of its place only if that did, and what of it."""
    fields = asdict(placement)
    if ran_on is not None:
        fields |= {"verified_by": placement.delegate, "verified_on": ran_on.driver}
        fields |= {} if ran_on.part is None else {"verified_part": ran_on.part}
    return fields


def _memory(job: Job, backend: Backend, lowered: Lowered) -> dict[str, Any]:
    own = [s for s in lowered.subgraphs if s.runtime == backend.runtime]
    longest = max(job.prefill_lengths)
    return backend.memory_ledger(job.config, job.recipe, job.context, longest, own, job.lora_rank)


def _sizes(
    job: Job, largest: str, backends: Mapping[Runtime, Backend], lowered: Lowered, parity: Parity
) -> list[dict[str, Any]]:
    """The sizes of an elastic bundle; the largest, which the stock engine runs, comes first."""
    (backend,) = backends.values()
    core = next(s for s in lowered.subgraphs if s.name == "core")
    every = tuple(range(job.config.num_layers))
    worst = parity.worst(backend.runtime, "core")
    sizes = [_size(job, backend, largest, job.config, every, core.delegation, worst, core.signatures)]
    for size in job.sizes:
        worst = parity.worst(backend.runtime, f"core of {size.name}")
        names = tuple(signature_of(size.name, name) for name in core.signatures)
        config = gemma3n_config(size.config)
        sizes.append(_size(job, backend, size.name, config, size.rows, lowered.sizes[size.name], worst, names))
    return sizes


def _size(
    job: Job,
    backend: Backend,
    name: str,
    config: TextConfig,
    rows: Sequence[int],
    delegation: Delegation | None,
    parity: float | None,
    signatures: Sequence[str],
) -> dict[str, Any]:
    """One size; ``layers`` are those of the largest size, ``core_bytes`` is the size of the weights that it reads."""
    core = sum(job.recipe.scheme(spec).nbytes(spec.shape) for spec in text_weights(config).values())
    part = LoweredSubgraph("core", backend.runtime, "", "", core, (), None)
    memory = backend.memory_ledger(config, job.recipe, job.context, max(job.prefill_lengths), [part])
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


def _audio(job: Job) -> dict[str, Any] | None:
    """The audio tower."""
    if job.audio is None:
        return None
    return {"soft_tokens": job.audio.max_soft_tokens, "frames_per_token": job.audio.frames_per_token}


def write_manifest(directory: Path, manifest: dict[str, Any], report: str) -> None:
    """Write the manifest, which lists the digest of the file ``report`` and ends with a digest of itself."""
    entry = _file(directory, report, "report")
    del entry["role"]
    whole = with_digest({**manifest, "report": entry})
    if (wrong := fault(whole, schema())) is not None:
        raise BundleError(f"the manifest of {manifest['name']} {wrong}: this is a fault of g3n")
    (directory / MANIFEST).write_bytes(manifest_bytes(whole))


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """A manifest in its written form."""
    return (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode()


def _slice(source: Source, reason: str | None) -> dict[str, Any]:
    """The shape of what was compiled and, for a MatFormer slice, what was cut from which model."""
    text = source.text
    shape: dict[str, Any] = {
        "num_layers": text.num_layers,
        "ffn_dims": list(text.ffn_dims),
        "num_kv_shared_layers": text.num_kv_shared_layers,
        "layer_types": list(text.layer_types),
    }
    if source.plan is not None:
        shape |= {"kept": list(source.plan.kept), "of": list(source.whole.ffn_dims), "reason": reason}
    return shape


def _vision(job: Job) -> dict[str, Any] | None:
    """What a front end needs to know about images."""
    if job.vision is None:
        return None
    return {
        "image_sizes": list(job.resolutions),
        "soft_tokens": job.vision.soft_tokens,
        "resample": load_resample(job.source.directory),
    }


def _file(directory: Path, path: str, role: str) -> dict[str, Any]:
    full = directory / path
    return {"path": path, "role": role, "sha256": file_sha256(full), "bytes": full.stat().st_size}


def _subgraph(s: LoweredSubgraph, placement: Placement, recipe: str, parity: Parity) -> dict[str, Any]:
    return {
        "name": s.name,
        "runtime": s.runtime,
        "role": s.role,
        "sha256": s.digest,
        "bytes": s.nbytes,
        "device": placement.device,
        "backend": placement.delegate,
        "signatures": list(s.signatures),
        "recipe": recipe,
        "delegation": None if s.delegation is None else asdict(s.delegation),
        "parity": parity.worst(s.runtime, s.name),
    }

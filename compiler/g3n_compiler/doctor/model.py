"""What the weights and the configuration are: family, size, dtype, towers, who saved them, and what a bundle takes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.fields import read_json
from g3n_compiler.checkpoint.meter import in_words
from g3n_compiler.checkpoint.reader import CONFIG
from g3n_compiler.checkpoint.safetensors import MAX_HEADER_BYTES
from g3n_compiler.doctor.findings import Findings
from g3n_compiler.errors import CheckpointError
from g3n_compiler.lower.memory import kv_bytes
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.published import PublishedModels, dimensions
from g3n_compiler.models.registry import family_of, text_weights
from g3n_compiler.models.shape import TextShape
from g3n_compiler.quantize.recipe import RECIPES, Recipe
from g3n_compiler.source import Source
from g3n_runtime.reading import open_regular, parse_json

WHAT, SAVED, WEIGHTS, BUNDLE = "what it is", "saved by", "weights", "a bundle of it"
RECIPES_TOLD = ("int4", "int8")
CONTEXT = 4096
SAVERS = (
    "transformers_version",
    "unsloth_version",
    "unsloth_fixed",
    "architectures",
    "_name_or_path",
    "dtype",
    "torch_dtype",
)
"""Fields of ``config.json`` by which savers are known."""
WRAPPERS = ("lora_A", "lora_B", "base_layer", "modules_to_save", "_orig_mod", "base_model.")
"""Parts of names that only a wrapper around a model gives its tensors."""


def tell_model(findings: Findings, directory: Path, source: Source | None, shape: TextShape | None) -> None:
    """All facts of this page that can be had."""
    if shape is not None:
        _tell_shape(findings, shape)
    _tell_saver(findings, directory, source)
    if source is not None:
        _tell_weights(findings, source)
    if shape is not None:
        _tell_bundle(findings, shape, source)


def _tell_shape(findings: Findings, shape: TextShape) -> None:
    family = family_of(shape)
    findings.tell(WHAT, "family", family.title)
    findings.tell(WHAT, "size", _size(family.published, shape))
    narrow, wide = min(shape.ffn_dims), max(shape.ffn_dims)
    widths = f"{wide:,}" if narrow == wide else f"{narrow:,} to {wide:,}"
    findings.tell(WHAT, "text model", f"{shape.num_layers} layers, FFNs of {widths}, hidden size {shape.hidden_size:,}")
    findings.tell(WHAT, "vocabulary", f"{shape.vocab_size:,} ids")


def _size(published: PublishedModels, shape: TextShape) -> str:
    """The published size or slice whose layers and widths these are."""
    same = [name for name, one in published.slices.items() if one.ffn_dims == tuple(shape.ffn_dims)]
    whole = [name for name in published.hub_ids if dimensions(shape) == published.made_from.get(name, ((),))[0]]
    if whole and whole[0] in same:
        return f"{whole[0].upper()}, as published"
    if same:
        return f"the published slice {same[0]}"
    return "of no published size"


def _tell_saver(findings: Findings, directory: Path, source: Source | None) -> None:
    try:
        config = read_json(directory / CONFIG)
    except CheckpointError:
        config = {}
    for name in SAVERS:
        if (value := config.get(name)) is not None:
            findings.tell(SAVED, name, _words(value))
    if (quantised := config.get("quantization_config")) is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else None
        findings.tell(SAVED, "quantization_config", _words(method or quantised))
        findings.notes.append("config.json speaks of a quantised checkpoint: what counts is what the tensors are")
    shards = [] if source is None else [shard.path for shard in source.checkpoint.shards]
    if formats := sorted({_words(v) for path in shards if (v := header_metadata(path)) is not None}):
        findings.tell(SAVED, "safetensors metadata", "; ".join(formats))


def header_metadata(path: Path) -> Any:
    """What a saver wrote into a file's header; ``None`` for nothing."""
    with open_regular(path, CheckpointError) as file:
        length = int.from_bytes(file.read(8), "little")
        header = parse_json(file.read(length), str(path), CheckpointError) if length <= MAX_HEADER_BYTES else None
    return header.get("__metadata__") if isinstance(header, dict) else None


def _tell_weights(findings: Findings, source: Source) -> None:
    entries = source.checkpoint.entries.values()
    total = sum(entry.nbytes for entry in entries)
    kinds = Counter(str(entry.dtype).removeprefix("torch.") for entry in entries)
    findings.tell(WEIGHTS, "tensors", f"{len(entries):,}, {in_words(total)} in {len(source.checkpoint.shards)} files")
    findings.tell(WEIGHTS, "dtype", ", ".join(f"{kind} ({n:,})" for kind, n in kinds.most_common()))
    findings.tell(WHAT, "towers", ", ".join(source.towers) or "none")
    try:
        findings.tell(WEIGHTS, "names begin with", source.text_prefix or "nothing")
    except CheckpointError:
        findings.tell(WEIGHTS, "names begin with", ", ".join(_beginnings(source)))
    wrapped = {part: name for name in source.checkpoint.entries for part in WRAPPERS if part in name}
    for part, name in wrapped.items():
        findings.notes.append(f"the tensor {name} has {part!r} in its name, which a wrapper left there")
    if kinds.get("float32", 0) > len(entries) // 2:
        findings.notes.append("the weights are float32: reading and hashing them takes twice as long as bfloat16 would")
    if heads := [entry for entry in entries if entry.name.endswith("lm_head.weight")]:
        findings.notes.append(f"the head is saved beside the embeddings: all {in_words(heads[0].nbytes)} are compared")


def _beginnings(source: Source) -> list[str]:
    counted = Counter(".".join(name.split(".")[:2]) + "." for name in source.checkpoint.entries)
    return [name for name, _ in counted.most_common(3)]


def _tell_bundle(findings: Findings, shape: TextShape, source: Source | None) -> None:
    """What of the text model and the towers a bundle holds, and what of it is in memory all the time."""
    for name in RECIPES_TOLD:
        recipe = RECIPES[name]
        core = recipe.stored_bytes(text_weights(shape).values())
        tables = recipe.stored_bytes(embedding_weights(shape).values())
        towers = 0 if source is None else _tower_bytes(recipe, source)
        parts = [f"{in_words(core)} in memory for every token", f"{in_words(tables)} of tables that stay on the disk"]
        if towers:
            parts.append(f"{in_words(towers)} of towers")
        total = in_words(core + tables + towers)
        findings.tell(BUNDLE, name, f"about {total} for each runtime: {', '.join(parts)}")
    context = min(CONTEXT, shape.max_context)
    findings.tell(BUNDLE, "caches", f"{in_words(kv_bytes(shape, context))} for a context of {context:,}")


def _tower_bytes(recipe: Recipe, source: Source) -> int:
    total = 0
    for tower in source.towers:
        try:
            total += recipe.stored_bytes(source.family.towers[tower].weights(source).values())
        except CheckpointError:  # a check has reported it
            continue
    return total


def _words(value: Any) -> str:
    """A value of somebody's JSON in a few words."""
    if isinstance(value, list):
        return ", ".join(_words(v) for v in value[:8])
    if isinstance(value, dict):
        return ", ".join(f"{k}: {_words(v)}" for k, v in list(value.items())[:8])
    return str(value)[:200]

"""The whole calibration: examples go through the decoder once, layer by layer, and each matrix is rounded when it is
used.

A layer's inputs come from the rounded layers before it, so its rounding also compensates for theirs. Before that the
weights are rewritten by what the examples make of their channels (:mod:`g3n_compiler.rewrite`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from g3n_compiler.bundle.destination import claim
from g3n_compiler.bundle.fingerprint import bundle_key
from g3n_compiler.bundle.kinds import CALIBRATED
from g3n_compiler.bundle.staging import staged
from g3n_compiler.calibrate.examples import Example, Reading, Rows, examples_sha256, load_examples
from g3n_compiler.calibrate.view import WHOLE, View, open_view
from g3n_compiler.calibrate.weights import CalibratingWeights, MeasuringWeights
from g3n_compiler.calibrate.write import write_calibrated
from g3n_compiler.checkpoint.calibrated import Calibration, read_calibration, write_calibration
from g3n_compiler.checkpoint.identity import Inputs
from g3n_compiler.checkpoint.reader import note_texts
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.errors import CheckpointError, ExampleError, TargetError
from g3n_compiler.lower.resume import Progress, Steps
from g3n_compiler.models.embedding_tables import EmbeddingTables
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.packed_cache import PackedCache
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import Weights, WeightSpec
from g3n_compiler.quantize.recipe import AUTO, Recipe
from g3n_compiler.quantize.saved import find_recipe, require_weights
from g3n_compiler.slice.elastic import Size
from g3n_compiler.source import Source
from g3n_compiler.tensor_account import account
from g3n_compiler.verify.held import own_held_texts
from g3n_compiler.verify.loss import Loss
from g3n_compiler.verify.measure_loss import measure_loss

ROLES = ("attention", "ffn")
"""The matrices that are rounded, if the recipe uses int4 for them. Tables are not rounded this way: their rows are
looked up, so there are no inputs to judge the rounding by."""
PACKAGES = ("torch", "numpy")
"""Distributions whose versions decide the rounding."""
ACTIVATION_BYTES = 4 << 30
"""The most bytes that the examples may take at once, in the widest layer."""


def calibrate(
    directory: Path, examples: Path, recipe_name: str, destination: Path, progress: Progress, view: View = WHOLE
) -> Calibration:
    """Write the checkpoint in ``directory``, rounded by ``examples``, to ``destination``; returns its record.

    Args:
        view: what of it: a slice is written as a checkpoint of its own, and an adapter is merged.

    Raises:
        G3nError: what was found, what was expected and what to do; nothing is left that looks like a checkpoint.
    """
    recipe, inputs = find_recipe(recipe_name), Inputs()
    if recipe.name == AUTO:
        raise TargetError(
            f"{AUTO} chooses a recipe, and this rounds for one: compile with it, save its recipe with g3n-inspect "
            "--recipe, and pass that file"
        )
    read = [directory, examples] if view.lora is None else [directory, examples, view.lora]
    target = claim(destination, CALIBRATED, read, progress)
    note_texts(directory, inputs)
    inputs.note([examples])
    if read_calibration(directory) is not None:
        raise CheckpointError(f"{directory} is already calibrated: pass the checkpoint that it was made from")
    source, sizes = open_view(directory, view, inputs, progress)
    specs = text_weights(source.text)
    require_weights(recipe, specs)
    rounded = {name: spec for name, spec in specs.items() if spec.role in ROLES and recipe.scheme(spec).bits < 8}
    if not rounded:
        raise TargetError(
            f"{recipe.name} has no int4 matrices, and others lose almost nothing: compile without calibrating"
        )
    given = load_examples(examples)
    inputs.note(file for example in given for file in (*example.images, *example.audio))
    progress("hashing the checkpoint")
    hashes = source.checkpoint.survey(account(source.divided(source.text.whole), progress).used, progress, progress)
    origin = examples_sha256(examples, given)
    adapter = None if source.adapter is None else source.adapter.sha256
    plan = None if source.plan is None else asdict(source.plan)
    seen = {"slice": plan, "blocks": source.text.ffn_blocks, "adapter": adapter}
    key = bundle_key(directory, hashes, {"calibrate": recipe.name, "examples": origin, **seen}, PACKAGES)
    with staged(target, key) as (folder, steps_folder):
        steps = Steps(steps_folder, lambda line: None)
        rows = _read(source, recipe, given, progress)
        if recipe.rewrites:
            channels = steps.file("sizes.safetensors", lambda path: _save_sizes(source, rows, path, progress))
            source = source.rewritten(load_file(channels))
        weights = CalibratingWeights(source, specs, rounded, recipe, steps)
        _run(source, weights, rows, recipe, progress)
        progress("writing the checkpoint")
        parts: dict[str, dict[Path, WeightSpec]] = {}
        for name in rounded:
            parts.setdefault(specs[name].tensor, {})[weights.file(name)] = specs[name]
        write_calibrated(source, parts, folder)
        loss = _loss(source, folder, recipe, sizes, progress)
        record = Calibration(
            recipe=recipe.name,
            examples_sha256=origin,
            examples=len(given),
            matrices=len(rounded),
            error=weights.error,
            source=hashes,
            rewritten=source.rewrites is not None,
            adapter=adapter,
            slice=plan,
            elastic=[size.name for size in sizes] or None,
            loss=loss.recorded(),
        )
        write_calibration(folder, record)
        inputs.require_unchanged()
    source.close()
    return record


def _loss(source: Source, folder: Path, recipe: Recipe, sizes: Sequence[Size], progress: Progress) -> Loss:
    """What the checkpoint in ``folder`` loses against ``source`` in float32, in each size."""
    made = Source.open(folder, modalities=source.modalities).divided(source.text)
    tokenizer = load_tokenizer(folder, gemma3n_config(source.text), source.modalities)
    # of the first checkpoint, since the new one has no record yet that says what it was made from
    held = own_held_texts(source, tokenizer)
    progress(f"measuring what {recipe.name} costs on {held.predicted} tokens of {held.origin}")
    exact = source.original
    smaller = {
        size.name: measure_loss(
            made.sliced(size.plan, size.config), recipe, held, exact.sliced(size.plan, size.config)
        ).figures
        for size in sizes[1:]
    }
    loss = replace(measure_loss(made, recipe, held, exact), sizes=smaller)
    made.close()
    return loss


def _read(source: Source, recipe: Recipe, examples: Sequence[Example], progress: Progress) -> list[Rows]:
    """All examples as rows, if they fit into memory at once."""
    progress(f"reading {len(examples)} examples")
    reading = Reading(source, load_tokenizer(source.directory, gemma3n_config(source.text), source.modalities), recipe)
    config, rows, tokens = source.text, list[Rows](), 0
    # the gate, the up projection, their product and its int8-rounded copy, plus the streams and the rows
    each = 4 * (4 * max(config.ffn_dims) + 8 * config.hidden_size + config.num_layers * config.ple_dim)
    for number, example in enumerate(examples, 1):
        rows.append(reading.rows(example))
        tokens += len(rows[-1])
        if tokens * each > ACTIVATION_BYTES:
            raise ExampleError(
                f"the first {number} examples have {tokens} tokens, but only {ACTIVATION_BYTES // each} of this model "
                "fit into memory together: leave some out"
            )
    return rows


@torch.no_grad()
def _run(source: Source, weights: Weights, examples: Sequence[Rows], recipe: Recipe | None, progress: Progress) -> None:
    """Send all examples through the decoder as a bundle does: what no answer needs ends at the last KV owner.

    Args:
        recipe: rounds the rows of the per-layer table; ``None`` leaves them as they are.
    """
    config = source.text
    decoder = source.family.decoder(config, weights)
    cache = PackedCache(config, [len(e) for e in examples], [len(e) - e.answered for e in examples])
    embeddings = torch.cat([e.embeddings for e in examples])[None]
    ple = EmbeddingTables(config, source.read, recipe).ple([i for e in examples for i in e.ids])
    state = decoder.begin(embeddings, ple, torch.cat([torch.arange(len(e)) for e in examples]))
    answers = torch.cat([torch.arange(len(e)) >= e.answered for e in examples])
    for i in range(config.num_layers):
        progress(f"layer {i + 1} of {config.num_layers}")
        state = decoder.layer(i, state, cache, answers if i == config.num_kv_layers - 1 else None)


def _save_sizes(source: Source, examples: Sequence[Rows], path: Path, progress: Progress) -> None:
    """How large the values of each channel are over the examples, in float32, by the channels' names."""
    progress("measuring the channels in float32")
    places = source.family.channels(source.whole)
    source = source.divided(source.text.whole)
    weights = MeasuringWeights(source, {name for place in places for name in place.consumers})
    _run(source, weights, examples, None, progress)
    sizes = {}
    for place in places:
        width = source.checkpoint.entries[source.text_prefix + place.consumers[0]].shape[1]
        found = [_widened(weights.squares[name], width) for name in place.consumers if name in weights.squares]
        if found:  # not of a layer that the slice skips
            sizes[place.name] = torch.stack(found).mean(0).sqrt()
    path.write_bytes(save(sizes))  # save_file would not raise the system's own errors


def _widened(squares: Tensor, width: int) -> Tensor:
    """Channels that the slice cuts off, which nothing reads, count as the median of the others."""
    return torch.cat([squares, squares.median().expand(width - len(squares))])

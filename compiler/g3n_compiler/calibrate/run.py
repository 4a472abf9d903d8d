"""The whole calibration: examples go through the decoder once, layer by layer, and each matrix is rounded when it is
used.

A layer's inputs come from the rounded layers before it, so its rounding also compensates for theirs. Before that the
weights are rewritten by what the examples make of their channels (:mod:`g3n_compiler.rewrite`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save
from torch import Tensor

from g3n_compiler.bundle.destination import claim
from g3n_compiler.bundle.fingerprint import bundle_key
from g3n_compiler.bundle.kinds import CALIBRATED
from g3n_compiler.bundle.staging import staged
from g3n_compiler.calibrate.examples import Example, Reading, Rows, examples_sha256, load_examples
from g3n_compiler.calibrate.gptq import Curvature, curvature_of, output_error, round_with_feedback
from g3n_compiler.calibrate.write import write_calibrated
from g3n_compiler.checkpoint.calibrated import Calibration, read_calibration, write_calibration
from g3n_compiler.checkpoint.identity import Inputs
from g3n_compiler.checkpoint.reader import note_texts
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.errors import CheckpointError, ExampleError, NotFinite, TargetError
from g3n_compiler.lower.resume import Progress, Steps
from g3n_compiler.models.embedding_tables import EmbeddingTables
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.packed_cache import PackedCache
from g3n_compiler.models.registry import text_weights
from g3n_compiler.models.weights import LazyWeights, Weights, WeightSpec
from g3n_compiler.quantize.fake import FakeQuantWeights
from g3n_compiler.quantize.recipe import AUTO, Recipe
from g3n_compiler.quantize.rows import fake_quantize, fake_quantize_activations
from g3n_compiler.quantize.saved import find_recipe, require_weights
from g3n_compiler.source import Source
from g3n_compiler.tensor_account import account

ROLES = ("attention", "ffn")
"""The matrices that are rounded, if the recipe uses int4 for them. Tables are not rounded this way: their rows are
looked up, so there are no inputs to judge the rounding by."""
PACKAGES = ("torch", "numpy")
"""Distributions whose versions decide the rounding."""
ACTIVATION_BYTES = 4 << 30
"""The most bytes that the examples may take at once, in the widest layer."""


def calibrate(directory: Path, examples: Path, recipe_name: str, destination: Path, progress: Progress) -> Calibration:
    """Write the checkpoint in ``directory``, rounded by ``examples``, to ``destination``; returns its record.

    Raises:
        G3nError: what was found, what was expected and what to do; nothing is left that looks like a checkpoint.
    """
    recipe, inputs = find_recipe(recipe_name), Inputs()
    if recipe.name == AUTO:
        raise TargetError(
            f"{AUTO} chooses a recipe, and this rounds for one: compile with it, save its recipe with g3n-inspect "
            "--recipe, and pass that file"
        )
    target = claim(destination, CALIBRATED, (directory, examples), progress)
    note_texts(directory, inputs)
    inputs.note([examples])
    source = Source.open(directory)
    source.checkpoint.note(inputs)
    if read_calibration(directory) is not None:
        raise CheckpointError(f"{directory} is already calibrated: pass the checkpoint that it was made from")
    specs = text_weights(source.text)
    require_weights(recipe, specs)
    rounded = {name: spec for name, spec in specs.items() if spec.role in ROLES and recipe.scheme(spec).bits == 4}
    if not rounded:
        raise TargetError(
            f"{recipe.name} has no int4 matrices, and others lose almost nothing: compile without calibrating"
        )
    given = load_examples(examples)
    inputs.note(file for example in given for file in (*example.images, *example.audio))
    progress("hashing the checkpoint")
    hashes = source.checkpoint.survey(account(source, progress).used, progress, progress)
    origin = examples_sha256(examples, given)
    key = bundle_key(directory, hashes, {"calibrate": recipe.name, "examples": origin}, PACKAGES)
    with staged(target, key) as (folder, steps_folder):
        steps = Steps(steps_folder, lambda line: None)
        rows = _read(source, recipe, given, progress)
        if recipe.rewrites:
            sizes = steps.file("sizes.safetensors", lambda path: _save_sizes(source, rows, path, progress))
            source = source.rewritten(load_file(sizes))
        weights = CalibratingWeights(source, specs, rounded, recipe, steps)
        _run(source, weights, rows, recipe, progress)
        progress("writing the checkpoint")
        record = Calibration(
            recipe.name, origin, len(given), len(rounded), weights.error, hashes, source.rewrites is not None
        )
        write_calibrated(source, {specs[name].tensor: weights.file(name) for name in rounded}, folder)
        write_calibration(folder, record)
        inputs.require_unchanged()
    source.close()
    return record


class CalibratingWeights(FakeQuantWeights):
    """Weights as the recipe rounds them; each weight in ``rounded`` is rounded by the first inputs that it receives.

    Each rounded matrix is kept in a file of its own, so that an interrupted calibration can resume.
    """

    def __init__(
        self,
        source: Source,
        specs: Mapping[str, WeightSpec],
        rounded: Mapping[str, WeightSpec],
        recipe: Recipe,
        steps: Steps,
    ) -> None:
        super().__init__(source.read, specs, recipe, keep=False)
        self._checkpoint, self._rounded, self._steps = source, rounded, steps
        self._seen: tuple[Tensor, Curvature] | None = None
        self._plain = self._chosen = 0.0

    @property
    def error(self) -> float:
        """Squared error of the matrices' outputs on the examples, relative to that of plain rounding."""
        return self._chosen / self._plain if self._plain else 1.0

    def linear(self, name: str, x: Tensor) -> Tensor:
        if name not in self._rounded:
            return super().linear(name, x)
        kept = load_file(self._steps.file(f"{name}.safetensors", lambda path: self._round(name, x, path)))
        plain, chosen = kept["errors"].tolist()
        self._plain, self._chosen = self._plain + plain, self._chosen + chosen
        return F.linear(fake_quantize_activations(x), kept["weight"].float())

    def file(self, name: str) -> Path:
        """Where the rounded matrix is, once :meth:`linear` has been called with it."""
        return self._steps.folder / f"{name}.safetensors"

    def _round(self, name: str, x: Tensor, path: Path) -> None:
        spec = self._rounded[name]
        scheme, dtype = self._recipe.scheme(spec), self._checkpoint.dtype(spec.tensor)
        weight, curvature = self._read(spec), self._curvature(x)
        if not weight.isfinite().all() or not all(part.isfinite().all() for part in curvature):
            raise NotFinite(
                f"tensor {spec.tensor!r}, or what reaches it, holds a NaN or an infinity: the checkpoint is damaged or "
                "was trained in too small a float format"
            )
        stored = round_with_feedback(weight, curvature, scheme).to(dtype)
        value = stored.float()
        if not torch.equal(fake_quantize(value, scheme), value):
            raise TargetError(
                f"{spec.tensor} as {dtype} cannot hold {scheme.label} values exactly: store it as float32"
            )
        plain = output_error(weight, fake_quantize(weight, scheme), curvature)
        errors = torch.tensor([plain, output_error(weight, value, curvature)], dtype=torch.float64)
        path.write_bytes(
            save({"weight": stored, "errors": errors})
        )  # save_file would not raise the system's own errors

    def _curvature(self, x: Tensor) -> Curvature:
        """The curvature of ``x``, reused while the input is the same: queries, keys and values share one, and so do
        gate and up.
        """
        if self._seen is None or self._seen[0] is not x:
            self._seen = x, curvature_of(x[0])
        return self._seen[1]


class MeasuringWeights(LazyWeights):
    """A checkpoint's own weights, which keep the mean square ``[K]`` of what each of some matrices read."""

    def __init__(self, source: Source, tensors: Collection[str]) -> None:
        specs = text_weights(source.text)
        super().__init__(source.read, specs)
        self._tensors = {name: spec.tensor for name, spec in specs.items() if spec.tensor in tensors}
        self.squares: dict[str, Tensor] = {}

    def linear(self, name: str, x: Tensor) -> Tensor:
        if (tensor := self._tensors.get(name)) is not None:
            self.squares[tensor] = x[0].square().mean(0)
        return super().linear(name, x)


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
    weights = MeasuringWeights(source, {name for place in places for name in place.consumers})
    _run(source, weights, examples, None, progress)
    sizes = {
        place.name: torch.stack([weights.squares[name] for name in place.consumers]).mean(0).sqrt() for place in places
    }
    path.write_bytes(save(sizes))  # save_file would not raise the system's own errors

"""What ``g3n-lora`` does: a PEFT adapter, checked as ``--lora`` checks it, in a file that LiteRT-LM reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from g3n_compiler.checkpoint.hub import compiled_from, resolve_adapter, resolve_checkpoint, stay_offline
from g3n_compiler.checkpoint.hub_id import Named
from g3n_compiler.checkpoint.lora import LoraAdapter, require_adapter
from g3n_compiler.checkpoint.lora_pairs import Pair
from g3n_compiler.checkpoint.lora_text import require_same_text
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.parity import check_origin, hub_origin, plan_of
from g3n_compiler.errors import CheckpointError
from g3n_compiler.lower.job import Progress
from g3n_compiler.lower.litert.adapter_file import write_adapter_file
from g3n_compiler.lower.litert.adapters import input_values, rewrites_of
from g3n_compiler.lower.signatures.lora import input_names
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.weights import Adapted
from g3n_compiler.rewrite.apply import Rewrites
from g3n_compiler.source import LAYER, TEXT, Source
from g3n_runtime.bundle import Bundle
from g3n_runtime.litert.lora import TURNS, base_of


@dataclass(frozen=True)
class Made:
    """What an adapter's file holds."""

    matrices: int
    rank: int
    """The largest of the adapter's, which is padded to the bundle's."""


def make_adapter_file(bundle: Bundle, named: Named, checkpoint: Named | None, out: Path, step: Progress) -> Made:
    """Write the adapter ``named`` to ``out``, for ``bundle``, which was compiled from ``checkpoint``.

    Raises:
        EngineError: the bundle takes no adapter.
        CheckpointError: the checkpoint is not the bundle's, or the adapter cannot be added to it exactly.
    """
    base, size, rank = base_of(bundle.manifest), bundle.manifest["model"]["size"], bundle.manifest["lora"]["rank"]
    adapter = resolve_adapter(named, step)
    require_adapter(adapter)
    directory = resolve_checkpoint(size, checkpoint or compiled_from(size, hub_origin(bundle)), step)
    stay_offline()

    def remark(found: str) -> None:
        step(f"note: {found}")

    source = Source.open(directory, plan_of(bundle), modalities=(TEXT,))
    try:
        step("hashing the checkpoint")
        check_origin(bundle, source)
        step("reading the adapter")
        source = source.adapted(adapter, remark)
        require_same_text(adapter, load_tokenizer(directory, gemma3n_config(source.text), source.modalities))
        rotated = TURNS in bundle.paths
        adapted = folded(source, rewrites_of(source, bundle.file(TURNS)) if rotated else Rewrites({}), rank)
    finally:
        source.close()
    bundle.require_unchanged()
    partial = out.with_name(f"{out.name}.partial")
    write_adapter_file(partial, input_values(adapted, rank), rank, base)
    partial.replace(out)
    return Made(len(adapted), max(a.shape[1] for a, _ in adapted.values()))


def folded(source: Source, rewrites: Rewrites, rank: int) -> dict[str, Adapted]:
    """``source``'s adapter by the names of the graph's weights, rewritten as they are, its scales within ``b``.

    What has no effect, since inference never reads it, is left out.

    Raises:
        CheckpointError: the adapter changes what no input reaches, or a rank is above ``rank``.
    """
    adapter, dead = source.adapter, source.dead_tensors()
    assert adapter is not None
    pairs = _reachable(adapter, {source.text_prefix + name for name in dead})
    found: dict[str, Adapted] = {}
    for name, pair in sorted(pairs.items()):
        relative = name.removeprefix(source.text_prefix)
        own = input_names(_in_slice(source, relative).removesuffix(".weight")) if relative != name else None
        if own is None:
            raise CheckpointError(
                f"the adapter changes {name}, but LiteRT-LM adds adapters to q_proj, k_proj, v_proj and o_proj of "
                "attention alone: train it with these as target_modules, or merge it with g3n-compile --lora"
            )
        if len(pair.a) > rank:
            raise CheckpointError(
                f"the adapter has rank {len(pair.a)} for {name}, the bundle takes up to {rank}: compile it with a "
                "larger --lora-rank, or merge the adapter with g3n-compile --lora"
            )
        a, b = _rewritten(rewrites, relative, pair.a, pair.b * pair.scale)
        found[_in_slice(source, relative).removesuffix(".weight")] = a.T.contiguous(), b.T.contiguous()
    if not found:
        raise CheckpointError("nothing that the adapter changes has an effect in this bundle: there is nothing to add")
    return found


def _reachable(adapter: LoraAdapter, dead: set[str]) -> dict[str, Pair]:
    """The pairs of matrices that inference reads.

    Raises:
        CheckpointError: the adapter changes something otherwise than by a pair.
    """
    if other := sorted(adapter.names - adapter.pairs.keys() - dead):
        raise CheckpointError(
            f"the adapter replaces {other[0]} or rows of it, but LiteRT-LM only adds products of two matrices: merge "
            "the adapter with g3n-compile --lora"
        )
    return {name: pair for name, pair in adapter.pairs.items() if name not in dead}


def _rewritten(rewrites: Rewrites, name: str, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """``a [r, K]`` and ``b [N, r]`` after the rewrites of the matrix ``name``: rows are ``b``'s, columns ``a``'s."""
    rewrite = rewrites.tensors.get(name)
    if rewrite is None:
        return a, b
    if rewrite.turned_rows is not None:
        return a, rewrites.read(name, None, lambda rows: b if rows is None else b[slice(*rows)])
    return rewrites.read(name, None, lambda rows: a), b


def _in_slice(source: Source, relative: str) -> str:
    """The name that a tensor of the whole checkpoint has in the slice, which has all layers that are not dead."""
    match = LAYER.fullmatch(relative)
    if source.plan is None or match is None:
        return relative
    return f"layers.{source.plan.kept.index(int(match[1]))}.{match[2]}"

"""The published Mix-n-Match configurations of E4B, as data.

Source: MatFormer Lab's configuration table (MMLU of the pretrained slices, 5-shot). Names are ours: the published
size and, where a size exists twice, whether widths were chosen layer by layer or for blocks of five layers.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from g3n_compiler.checkpoint.config import TextConfig
from g3n_compiler.errors import SliceError

E4B_SHAPE = (35, 16384)
"""Layers and FFN width of the model that the configurations are slices of."""


@dataclass(frozen=True)
class Published:
    """One row of the table; ``ffn_dims`` are counted after the skip."""

    name: str
    effective_params_b: float
    mmlu_percent: float
    skipped: tuple[int, ...]
    ffn_dims: tuple[int, ...]


@cache
def published() -> dict[str, Published]:
    """All configurations by name, in the order of the table."""
    table = files("g3n_compiler.slice").joinpath("published.csv").read_text(encoding="utf-8")
    return {row["name"]: _parse(row) for row in csv.DictReader(table.splitlines())}


def require_e4b(config: TextConfig, what: str) -> None:
    """Raise :class:`SliceError` unless ``config`` is of the shape that published configurations are slices of."""
    shape = config.num_layers, max(config.ffn_dims)
    if shape != E4B_SHAPE:
        raise SliceError(
            f"{what} names a published slice of E4B ({E4B_SHAPE[0]} layers, FFNs of {E4B_SHAPE[1]}), the checkpoint "
            f"has {shape[0]} layers and FFNs of {shape[1]}: pass an E4B checkpoint, or --skip-layers and --ffn-dims"
        )


def _parse(row: dict[str, str]) -> Published:
    dims: list[int] = []
    for run in row["ffn_dims"].split():
        width, count = run.split("x")
        dims += [int(width)] * int(count)
    skipped = tuple(int(i) for i in row["skipped"].split())
    return Published(row["name"], float(row["effective_params_b"]), float(row["mmlu_percent"]), skipped, tuple(dims))

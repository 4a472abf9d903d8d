"""What Google has published of Gemma 3n: two models, and the Mix-n-Match configurations of E4B, as data.

Source: MatFormer Lab's configuration table (MMLU of the pretrained slices, 5-shot). The slices' names are ours: the
published size and, if a size exists twice, whether its widths were chosen layer by layer or for blocks of five layers.
"""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files

from g3n_compiler.models.published import PublishedModels, PublishedSlice

E2B, E4B = (30, 8192), (35, 16384)
"""The number of layers and the FFN width."""


@cache
def published() -> PublishedModels:
    """Everything that is published."""
    return PublishedModels(
        hub_ids={"e2b": "google/gemma-3n-E2B-it", "e4b": "google/gemma-3n-E4B-it"},
        slices=published_slices(),
        slices_of="e4b",
        made_from={"e2b": (E2B, E4B), "e4b": (E4B,)},
        not_nested={E2B: "E2B's shape: it is itself a slice and was not trained to hold a smaller one. Pass an E4B"},
    )


@cache
def published_slices() -> dict[str, PublishedSlice]:
    """All configurations by name, in the order of the table."""
    table = files("g3n_compiler.models.gemma3n").joinpath("published.csv").read_text(encoding="utf-8")
    return {row["name"]: _parse(row) for row in csv.DictReader(table.splitlines())}


def _parse(row: dict[str, str]) -> PublishedSlice:
    dims: list[int] = []
    for run in row["ffn_dims"].split():
        width, count = run.split("x")
        dims += [int(width)] * int(count)
    skipped = tuple(int(i) for i in row["skipped"].split())
    return PublishedSlice(
        row["name"], float(row["effective_params_b"]), float(row["mmlu_percent"]), skipped, tuple(dims)
    )

"""Embedding tables, written row by row into one page-aligned ``.ptd`` and never held in memory.

The graph knows only a table's name and shape (:class:`EmbeddingTable`). At run time ExecuTorch maps the file, and so
does :mod:`g3n_runtime`, at the offsets that :func:`write_tables` returns; there is one copy of the bytes.
"""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from g3n_compiler.lower.executorch.delegates.weight_store import data_name
from g3n_compiler.lower.executorch.weights import ReadRows, row_blocks
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import Scheme
from g3n_compiler.quantize.rows import QuantizedRows, quantize_rows

PAGE = 16384
"""Alignment of a table: Android's largest page."""


@dataclass(frozen=True)
class TableLayout:
    """Where a table is in the ``.ptd``: offsets in bytes from the start of the file."""

    rows: int
    width: int
    bits: int
    values_offset: int
    scales_offset: int

    @property
    def row_bytes(self) -> int:
        return self.width * self.bits // 8

    @property
    def parts(self) -> tuple[str, ...]:
        """The buffers of an :class:`EmbeddingTable` of this layout."""
        return ("values",) if self.bits == 32 else ("values", "scales")


@dataclass(frozen=True)
class TablesFile:
    """What :func:`write_tables` wrote."""

    layouts: dict[str, TableLayout]
    digests: dict[str, str]
    """SHA-256 of each table's values."""
    weight_names: dict[str, dict[str, str]]
    """XNNPACK's names for the parts of those tables that are also a linear layer's weight."""

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> TablesFile:
        """The inverse of ``dataclasses.asdict``."""
        layouts = {name: TableLayout(**layout) for name, layout in raw["layouts"].items()}
        return cls(layouts, raw["digests"], raw["weight_names"])


class EmbeddingTable(nn.Module):
    """Look-up in a table that stays in the ``.ptd``.

    The buffers here have one row and stand for the table while the graph is made (:func:`.program.serialize` sets the
    true number of rows), so a table of gigabytes costs nothing. Values are float32, int8, or two int4 values per byte,
    the first in the high nibble, plus 8. Scales are one float32 per row.
    """

    def __init__(self, width: int, scheme: Scheme) -> None:
        super().__init__()
        self.bits = scheme.bits
        self.register_buffer("values", torch.zeros(1, _stored_width(width, scheme.bits), dtype=_DTYPES[scheme.bits]))
        if scheme.bits != 32:
            self.register_buffer("scales", torch.ones(1))

    def forward(self, ids: Tensor) -> Tensor:
        """Float32 rows ``[*ids.shape, width]`` of ``ids`` int64."""
        values = self.get_buffer("values")
        if self.bits == 32:
            return F.embedding(ids, values)
        ops = torch.ops.quantized_decomposed
        look_up, low, high = (ops.embedding_byte, -128, 127) if self.bits == 8 else (ops.embedding_4bit, -8, 7)
        return look_up(values, self.get_buffer("scales"), None, low, high, ids)


_DTYPES = {32: torch.float32, 8: torch.int8, 4: torch.uint8}


def _stored_width(width: int, bits: int) -> int:
    return width // 2 if bits == 4 else width


@dataclass(frozen=True)
class TableSource:
    """The content of a table: ``multiplier`` scales every row (the embedding's own factor)."""

    spec: WeightSpec
    scheme: Scheme
    multiplier: float = 1.0


def write_tables(
    path: Path, tables: Mapping[str, TableSource], read: ReadRows, shared: Collection[str] = ()
) -> TablesFile:
    """Write ``tables`` to ``path`` as a FlatTensor file with the keys ``<name>.values`` and ``<name>.scales``.

    Args:
        shared: int8 tables that are also a linear layer's weight. Their bytes also get the keys under which XNNPACK
            looks for such a weight.

    Raises:
        NotFinite: a row holds a NaN or an infinity.
    """
    from executorch.exir._serialize._cord import FileBackedData
    from executorch.exir._serialize.data_serializer import DataEntry, DataPayload
    from executorch.exir.scalar_type import ScalarType
    from executorch.exir.tensor_layout import TensorLayout
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorConfig, FlatTensorSerializer

    kinds = {32: ScalarType.FLOAT, 8: ScalarType.CHAR, 4: ScalarType.BYTE}
    buffers: list[bytes | FileBackedData] = []
    entries: dict[str, DataEntry] = {}
    digests: dict[str, str] = {}
    weight_names: dict[str, dict[str, str]] = {}

    def add(data: bytes | FileBackedData, key: str, layout: TensorLayout, weight_key: str | None) -> None:
        entries[key] = DataEntry(len(buffers), PAGE, layout)
        if weight_key is not None:
            entries[weight_key] = DataEntry(len(buffers), PAGE, None)
        buffers.append(data)

    # Values go through a scratch file, because the keys with their hashes precede them in the file.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tables-") as scratch, ExitStack() as stack:
        for name, source in tables.items():
            digests[name], scales = _write_values(Path(scratch) / name, source, read)
            rows, width = source.spec.shape
            layout = TensorLayout(kinds[source.scheme.bits], [rows, _stored_width(width, source.scheme.bits)], [0, 1])
            values = stack.enter_context(FileBackedData(str(Path(scratch) / name)))
            data = None if scales is None else scales.numpy().tobytes()
            names: dict[str, str] = {}
            if name in shared and data is not None:
                names = weight_names[name] = {"values": digests[name], "scales": data_name("scales", data)}
            add(values, f"{name}.values", layout, names.get("values"))
            if data is not None:
                add(data, f"{name}.scales", TensorLayout(ScalarType.FLOAT, [rows], [0]), names.get("scales"))
        serializer = FlatTensorSerializer(FlatTensorConfig(segment_alignment=PAGE))
        with path.open("wb") as file:
            serializer.serialize(DataPayload(buffers, entries)).write_to_file(file)
    return TablesFile(_layouts(path, tables, [len(b) for b in buffers]), digests, weight_names)


def _write_values(path: Path, source: TableSource, read: ReadRows) -> tuple[str, Tensor | None]:
    """Stream a table's values into ``path``; returns their SHA-256 (hex) and the scales of a quantised table."""
    digest = hashlib.sha256()
    scales: list[Tensor] = []
    with path.open("wb") as file:
        for block in row_blocks(source.spec, read):
            if source.scheme.bits == 32:
                stored = (block * source.multiplier).numpy().tobytes()
            else:
                rows = quantize_rows(block, source.scheme)
                stored = pack_table_rows(rows, source.scheme).numpy().tobytes()
                scales.append(rows.scales * source.multiplier)
            digest.update(stored)
            file.write(stored)
    return digest.hexdigest(), torch.cat(scales) if scales else None


def pack_table_rows(rows: QuantizedRows, scheme: Scheme) -> Tensor:
    """Rows as ExecuTorch's embedding kernels read them: int8, or uint8 with the first of two int4 values in the high
    nibble.
    """
    if scheme.bits == 8:
        return rows.values
    shifted = (rows.values + 8).view(torch.uint8)
    return (shifted[:, 0::2] << 4) | shifted[:, 1::2]


def _layouts(path: Path, tables: Mapping[str, TableSource], sizes: list[int]) -> dict[str, TableLayout]:
    from executorch.extension.flat_tensor.serialize.serialize import FlatTensorHeader

    with path.open("rb") as file:
        # The flatbuffer's own offset and magic, 4 bytes each, come before the header.
        header = FlatTensorHeader.from_bytes(file.read(8 + FlatTensorHeader.EXPECTED_LENGTH)[8:])
    offsets, end = [], 0
    for size in sizes:
        offsets.append(header.segment_base_offset + end)
        end += math.ceil(size / PAGE) * PAGE
    out: dict[str, TableLayout] = {}
    for name, source in tables.items():
        bits = source.scheme.bits
        rows, width = source.spec.shape
        out[name] = TableLayout(rows, width, bits, offsets.pop(0), offsets.pop(0) if bits != 32 else 0)
    return out

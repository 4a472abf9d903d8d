"""The data file: layout, streaming, and the two readers of its bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from executorch.runtime import Runtime
from torch import Tensor

from g3n_compiler.errors import NotFinite
from g3n_compiler.lower.executorch import weights
from g3n_compiler.lower.executorch.tables import PAGE, TablesFile, TableSource, write_tables
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import Scheme
from g3n_compiler.quantize.rows import fake_quantize
from g3n_runtime.executorch.model import ExecuTorchModel, MappedTable
from tests.executorch.conftest import Lower

ROWS, WIDTH = 300, 24
TABLE = torch.randn(ROWS, WIDTH, generator=torch.Generator().manual_seed(0))
SPEC = WeightSpec("t", (ROWS, WIDTH), "ple", "t.weight")


def read(spec: WeightSpec, rows: tuple[int, int] | None) -> Tensor:
    return TABLE if rows is None else TABLE[rows[0] : rows[1]]


def write(path: Path, bits: int) -> TablesFile:
    return write_tables(path, {"t": TableSource(SPEC, Scheme(bits), 4.0)}, read)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", [4, 8, 32])
def test_mapped_rows_are_the_rounded_rows(tmp_path: Path, bits: int) -> None:
    layout = write(tmp_path / "t.ptd", bits).layouts["t"]
    assert layout.values_offset % PAGE == 0
    table = MappedTable(
        tmp_path / "t.ptd", [layout.rows, layout.width, bits, layout.values_offset, layout.scales_offset]
    )
    ids = np.array([0, 299, 7, 7, 150])
    expected = fake_quantize(TABLE, Scheme(bits)) * 4  # type: ignore[arg-type]
    np.testing.assert_allclose(table.look_up(ids), expected[ids], rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_ids_outside_look_up_row_0(tmp_path: Path, bits: int) -> None:
    layout = write(tmp_path / "t.ptd", bits).layouts["t"]
    table = MappedTable(
        tmp_path / "t.ptd", [layout.rows, layout.width, bits, layout.values_offset, layout.scales_offset]
    )
    rows = table.look_up(np.array([ROWS, -1, 10**6, 0]))
    assert (rows == rows[3]).all() and rows.any()


def test_blocks_do_not_show_in_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "one", 8)
    monkeypatch.setattr(weights, "BLOCK_BYTES", 7 * 4 * WIDTH)
    write(tmp_path / "many", 8)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()


def test_a_row_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    broken = TABLE.clone()
    broken[200, 3] = float("inf")
    with pytest.raises(NotFinite, match=r"t.weight"):
        write_tables(tmp_path / "t", {"t": TableSource(SPEC, Scheme(8))}, lambda spec, rows: broken[slice(*rows or ())])


def test_the_program_and_the_map_read_the_same_rows(lowered: Lower) -> None:
    """``token_embedding`` of the stock runtime against our own look-up, ids past the PLE table included."""
    int4 = lowered("int4")
    c, model = int4.config, ExecuTorchModel(int4.parts)
    ids = np.array([2, c.ple_vocab_size - 1, c.ple_vocab_size, c.vocab_size - 1])
    program = Runtime.get().load_program(int4.parts.model, data_path=int4.parts.tables)
    rows = program.load_method("token_embedding").execute([torch.from_numpy(ids)[None]])[0][0].numpy()
    np.testing.assert_allclose(rows[:, : c.hidden_size], model.embeddings(ids), rtol=1e-6)
    np.testing.assert_allclose(rows[:, c.hidden_size :], model.ple(ids), rtol=1e-6)
    expected = int4.reference.tables.ple(ids.tolist()).reshape(len(ids), -1)
    np.testing.assert_allclose(rows[:, c.hidden_size :], expected, rtol=1e-6)
    assert (rows[2, c.hidden_size :] == rows[3, c.hidden_size :]).all()
    assert not np.allclose(rows[1, c.hidden_size :], rows[2, c.hidden_size :])

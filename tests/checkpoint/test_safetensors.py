"""The lazy reader against the reference implementation, and against files that lie."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from g3n_compiler.checkpoint.safetensors import BITS, SafetensorsFile
from g3n_compiler.errors import BadHeader, CheckpointError, MissingShard, TruncatedShard


def write_raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(raw) if length is None else length).to_bytes(8, "little") + raw + data)
    return path


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_reads_what_the_reference_wrote(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = {"a": torch.randn(7, 5).to(dtype), "b": torch.randn(3).to(dtype), "scalar": torch.tensor(2.0).to(dtype)}
    save_file(tensors, tmp_path / "x.safetensors")
    file = SafetensorsFile(tmp_path / "x.safetensors")
    for name, tensor in tensors.items():
        assert torch.equal(file.read(name), tensor)
    assert torch.equal(file.read("a", (2, 5)), tensors["a"][2:5])
    assert file.read("a", (3, 3)).shape == (0, 5)
    with pytest.raises(IndexError):
        file.read("a", (0, 8))


ENTRY = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}


@pytest.mark.parametrize(
    ("header", "data", "length", "error"),
    [
        pytest.param({"a": ENTRY}, bytes(16), 1 << 62, BadHeader, id="header of exabytes"),
        pytest.param({"a": ENTRY}, bytes(16), 5000, TruncatedShard, id="header longer than the file"),
        pytest.param(b"{not json", b"", None, BadHeader, id="not JSON"),
        pytest.param(b"\xff\xfe{}", b"", None, BadHeader, id="not UTF-8"),
        pytest.param(b"[]", b"", None, BadHeader, id="not an object"),
        pytest.param(b"[" * 100_000, b"", None, BadHeader, id="nested too deep"),
        pytest.param({"a": ENTRY}, bytes(15), None, TruncatedShard, id="one byte short"),
        pytest.param({"a": ENTRY}, bytes(17), None, BadHeader, id="one byte that nobody claims"),
        pytest.param({"a": {**ENTRY, "shape": [1 << 40, 2]}}, bytes(16), None, BadHeader, id="shape beyond the bytes"),
        pytest.param({"a": {**ENTRY, "shape": [-2, -2]}}, bytes(16), None, BadHeader, id="negative shape"),
        pytest.param({"a": {**ENTRY, "shape": [True, 4]}}, bytes(16), None, BadHeader, id="a bool for a size"),
        pytest.param({"a": {**ENTRY, "data_offsets": [16, 0]}}, bytes(16), None, BadHeader, id="offsets reversed"),
        pytest.param({"a": {**ENTRY, "dtype": "I64"}}, bytes(16), None, BadHeader, id="integer weights"),
        pytest.param({"a": ENTRY, "b": ENTRY}, bytes(16), None, BadHeader, id="overlapping tensors"),
        pytest.param({"a": "x"}, b"", None, BadHeader, id="entry that is no object"),
    ],
)
def test_lying_file_is_refused(
    header: Any, data: bytes, length: int | None, error: type[CheckpointError], tmp_path: Path
) -> None:
    with pytest.raises(error):
        SafetensorsFile(write_raw(tmp_path / "x.safetensors", header, data, length))


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(MissingShard):
        SafetensorsFile(tmp_path / "absent.safetensors")
    (tmp_path / "empty.safetensors").touch()
    with pytest.raises(TruncatedShard):
        SafetensorsFile(tmp_path / "empty.safetensors")


def test_pages_are_read_not_mapped(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4, 4)}, tmp_path / "x.safetensors")
    file = SafetensorsFile(tmp_path / "x.safetensors")
    file.read("a")
    assert "x.safetensors" not in Path("/proc/self/maps").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", BITS)
@pytest.mark.parametrize("more", [0, 1])
def test_sizes_of_all_dtypes_are_those_of_the_reference(kind: str, more: int, tmp_path: Path) -> None:
    """Also of those that are never read: the layout of the others depends on them."""
    nbytes = 8 * BITS[kind] // 8 + more
    path = write_raw(
        tmp_path / "x", {"a": {"dtype": kind, "shape": [2, 4], "data_offsets": [0, nbytes]}}, bytes(nbytes)
    )
    if more:
        with pytest.raises(SafetensorError):
            safe_open(path, "np")
        with pytest.raises(BadHeader, match="needs"):
            SafetensorsFile(path)
        return
    safe_open(path, "np")
    entry = SafetensorsFile(path).entries["a"]
    if not entry.is_float:
        with pytest.raises(BadHeader, match=f"'a' has dtype {kind}"):
            _ = entry.dtype


def test_half_a_byte_is_no_size(tmp_path: Path) -> None:
    with pytest.raises(BadHeader, match=r"needs 1\.5 bytes"):
        SafetensorsFile(
            write_raw(tmp_path / "x", {"a": {"dtype": "F4", "shape": [3], "data_offsets": [0, 1]}}, bytes(1))
        )

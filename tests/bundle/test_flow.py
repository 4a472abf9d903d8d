"""The compile flow with a fake backend: what is written, what is refused, and that nothing half-made is left."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from g3n_compiler.bundle.signing import SigningKey
from g3n_compiler.cli import inspect
from g3n_compiler.compile import CompileOptions, compile_bundle
from g3n_compiler.errors import BundleError, DiskError, HashMismatch, ParityError, UnsafePath
from g3n_runtime.bundle import MANIFEST, SIGNATURE, open_bundle
from g3n_runtime.signature import check_signature
from tests.android.signed import KEY, OTHER_KEY
from tests.conftest import TinyModel
from tests.fakes import FakeBackend

Edit = Callable[[Path, Callable[[dict[str, Any]], None]], None]


def compile_tiny(
    tiny: TinyModel, out: Path, quant: str = "int8", sign: SigningKey | None = None, force: bool = True, **fake: Any
) -> Path:
    options = CompileOptions(
        checkpoint=tiny.directory,
        runtime="litert",
        recipe=quant,
        context=64,
        out=out,
        command="g3n-compile",
        sign=sign,
        force=force,
    )
    return compile_bundle(options, lambda line: None, lambda runtime: FakeBackend(runtime, **fake))


@pytest.fixture(scope="module")
def bundle(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """To be read; :func:`copy` is to be changed."""
    return compile_tiny(tiny, tmp_path_factory.mktemp("made") / "tiny")


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    target = tmp_path / "bundle"
    target.mkdir()
    for path in bundle.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


def test_manifest_says_what_is_there(bundle: Path, tiny: TinyModel) -> None:
    manifest = open_bundle(bundle).manifest
    assert manifest["model"]["size"] == "custom" and "Gemma Terms of Use" in manifest["license"]["notice"]
    assert manifest["parity"]["passed"] and manifest["recipe"]["name"] == "int8"
    assert {c["runtime"] for c in manifest["parity"]["checks"]} == {"eager", "onnxruntime", "litert"}
    assert manifest["kv"]["layers"][4] == {"layer": 4, "kind": "full", "length": 64}
    assert manifest["kv"]["layers"][0]["length"] == 16
    assert str(tiny.directory) not in json.dumps(manifest)
    page = (bundle / "report.html").read_text(encoding="utf-8")
    assert 'class="lane"' in page and "GATHER" in page and "http-equiv" not in page and "<script" not in page


def test_inspect_tells_what_rounding_costs(bundle: Path) -> None:
    shown = CliRunner().invoke(inspect.main, [str(bundle)]).output
    loss = open_bundle(bundle).manifest["loss"]
    assert f"perplexity {loss['exact_perplexity']:.2f} to {loss['perplexity']:.2f}" in " ".join(shown.split())


def test_same_input_same_bytes(bundle: Path, tiny: TinyModel, tmp_path: Path) -> None:
    again = compile_tiny(tiny, tmp_path / "tiny")
    for path in bundle.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes(), path.name


def test_a_signature_is_the_only_difference_that_signing_makes(bundle: Path, tiny: TinyModel, tmp_path: Path) -> None:
    signed = compile_tiny(tiny, tmp_path / "tiny", sign=KEY)
    assert check_signature(open_bundle(signed)) == KEY.public
    assert {p.name for p in signed.iterdir()} - {p.name for p in bundle.iterdir()} == {SIGNATURE}
    for path in bundle.iterdir():
        assert (signed / path.name).read_bytes() == path.read_bytes(), path.name
    again = compile_tiny(tiny, signed, sign=OTHER_KEY)
    assert check_signature(open_bundle(again)) == OTHER_KEY.public
    assert not (compile_tiny(tiny, signed) / SIGNATURE).exists()


@pytest.mark.parametrize(
    ("fake", "match"),
    [
        pytest.param({"error": 0.2}, "relative error", id="wrong logits"),
        pytest.param({"error": float("nan")}, "relative error", id="NaN logits"),
        pytest.param({"text": "<pad>" * 20}, "degenerate", id="only padding"),
        pytest.param(
            {"text": "the the the the the the the the the the the the the the the the the"}, "degenerate", id="stuck"
        ),
        pytest.param({"text": ""}, "degenerate", id="silent"),
    ],
)
def test_failed_parity_leaves_no_bundle(fake: dict[str, Any], match: str, tiny: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match=match):
        compile_tiny(tiny, tmp_path / "out" / "tiny", **fake)
    assert left_in(tmp_path / "out") == []


def test_full_disk(tiny: TinyModel, tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="no space left"):
        compile_tiny(tiny, tmp_path / "out" / "tiny", writes_to=Path("/dev/full"))
    assert left_in(tmp_path / "out") == []


def test_failure_keeps_the_bundle_that_was_there(copy: Path, tiny: TinyModel) -> None:
    before = {p.name: p.read_bytes() for p in copy.iterdir()}
    with pytest.raises(ParityError):
        compile_tiny(tiny, copy, error=0.2)
    assert {p.name: p.read_bytes() for p in copy.iterdir()} == before
    compile_tiny(tiny, copy)
    assert left_in(copy.parent) == ["bundle"]


def test_a_folder_that_is_no_bundle_is_not_replaced(tiny: TinyModel, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(DiskError, match="is not g3n's"):
        compile_tiny(tiny, tmp_path / "precious")
    assert left_in(tmp_path / "precious") == ["thesis.txt"]


@pytest.mark.parametrize("path", ["../litert.bin", "/etc/passwd", "a/../../b", "a\\..\\b", "..", "x\0y"])
def test_path_out_of_the_bundle(path: str, copy: Path, edit_json: Edit) -> None:
    edit_json(copy / MANIFEST, lambda m: m["files"][0].update(path=path))
    with pytest.raises(UnsafePath):
        open_bundle(copy)


def test_link_out_of_the_bundle(copy: Path) -> None:
    (copy / "litert.bin").rename(copy.parent / "elsewhere.bin")
    (copy / "litert.bin").symlink_to(copy.parent / "elsewhere.bin")
    with pytest.raises(UnsafePath, match="link"):
        open_bundle(copy)


def test_changed_short_or_missing_file(copy: Path) -> None:
    path = copy / "litert.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    with pytest.raises(HashMismatch):
        open_bundle(copy)
    open_bundle(copy, check_hashes=False)
    path.write_bytes(data[:-1])
    with pytest.raises(BundleError, match="bytes"):
        open_bundle(copy, check_hashes=False)
    path.unlink()
    with pytest.raises(BundleError, match="missing"):
        open_bundle(copy)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        pytest.param(lambda m: m.update(schema_version=2), "update g3n", id="newer"),
        pytest.param(lambda m: m.pop("memory"), "memory", id="a field missing"),
        pytest.param(lambda m: m.update(extra=1), "extra", id="a field too many"),
        pytest.param(lambda m: m.update(name="x" * 5000), "name", id="a huge string"),
        pytest.param(lambda m: m["files"][0].update(bytes=-1), "bytes", id="a negative size"),
    ],
)
def test_manifest_that_breaks_the_schema(
    change: Callable[[dict[str, Any]], None], match: str, copy: Path, edit_json: Edit
) -> None:
    edit_json(copy / MANIFEST, change)
    with pytest.raises(BundleError, match=match):
        open_bundle(copy)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no folder"):
        open_bundle(tmp_path / "absent")
    with pytest.raises(BundleError, match="is not a g3n bundle: it has no manifest"):
        open_bundle(tmp_path)
    (tmp_path / MANIFEST).write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(BundleError, match="JSON"):
        open_bundle(tmp_path)

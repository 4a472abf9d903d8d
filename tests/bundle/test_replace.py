"""``--out`` at a folder that is there: a person's survives byte for byte, ours is replaced; and sources that change."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from g3n_compiler.bundle.manifest import manifest_bytes
from g3n_compiler.cli import parity
from g3n_compiler.compile import CompileOptions, compile_bundle
from g3n_compiler.errors import Busy, NotOurs, SourceChanged
from g3n_compiler.lower.artifact import Lowered
from g3n_compiler.lower.job import Job
from g3n_compiler.verify.checks import Parity
from g3n_runtime.bundle import MANIFEST, open_bundle
from tests.bundle.folders import content, names
from tests.conftest import TinyModel
from tests.fakes import FakeBackend

SIGNATURE = json.dumps({"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json"}).encode()

PACKED = b"".join(number.to_bytes(8, "little") for number in (4, 24, 10)) + b"the weights"[:10]
"""A file as XNNPACK keeps packed weights in."""


def compile_to(out: Path, checkpoint: Path, backend: type[FakeBackend] = FakeBackend) -> list[str]:
    said: list[str] = []
    options = CompileOptions(
        checkpoint=checkpoint, runtime="litert", recipe="int8", context=64, out=out, command="g3n", force=True
    )
    compile_bundle(options, said.append, lambda runtime: backend(runtime))
    return said


@pytest.fixture(scope="module")
def made(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("made") / "bundle"
    compile_to(out, tiny.directory)
    return out


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def extension(folder: Path) -> None:
    shutil.rmtree(folder)
    (folder / "icons").mkdir(parents=True)
    (folder / MANIFEST).write_text('{"manifest_version": 3, "name": "My extension", "version": "1.0"}', "utf-8")
    (folder / "background.js").write_text("// years of work", "utf-8")
    (folder / "icons" / "16.png").write_bytes(b"\x89PNG")


def web_app(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    (folder / MANIFEST).write_text('{"name": "App", "start_url": "/", "display": "standalone"}', "utf-8")
    (folder / "index.html").write_text("<!doctype html>", "utf-8")


def edit_manifest(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["sampler"]["temperature"] = 0.123
    (folder / MANIFEST).write_bytes(manifest_bytes(manifest))


def older(folder: Path) -> None:
    """As an earlier version wrote it: the manifest vouched for the files only."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    del manifest["report"], manifest["digest"]
    manifest["files"][0]["role"] = "litertlm"  # what engines kept their caches of
    (folder / MANIFEST).write_bytes(manifest_bytes(manifest))


def older_with(folder: Path, name: str, data: bytes) -> None:
    older(folder)
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(data)


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


THEIRS: list[tuple[str, Callable[[Path], object]]] = [
    ("extension", extension),
    ("web app", web_app),
    ("notes", lambda f: (f / "notes.md").write_text("mine", "utf-8")),
    ("a file that was changed", lambda f: append(f / "tokenizer.json")),
    ("a report that was written on", lambda f: append(f / "report.html")),
    ("a manifest that was edited", edit_manifest),
    ("a manifest that was laid out anew", lambda f: [older(f), append(f / MANIFEST)]),
    ("no manifest", lambda f: (f / MANIFEST).unlink()),
    ("an empty manifest", lambda f: (f / MANIFEST).write_bytes(b"")),
    ("a manifest that is a list", lambda f: (f / MANIFEST).write_bytes(b"[" * 9999)),
    ("a newer manifest", lambda f: (f / MANIFEST).write_bytes(b'{"schema_version": 99}')),
    ("a manifest that is a pipe", lambda f: [(f / MANIFEST).unlink(), os.mkfifo(f / MANIFEST)]),
    ("a signature that is none", lambda f: (f / "manifest.sig").write_text("my notes", "utf-8")),
    ("an older one with notes", lambda f: older_with(f, "notes.md", b"mine")),
    ("an older one with a report of one's own", lambda f: older_with(f, "report.html", b"<html>mine</html>")),
    ("an older one with notes in its cache", lambda f: older_with(f, ".cache/notes.md", b"mine")),
    ("an older one with a model in its cache", lambda f: older_with(f, ".cache/decoder-0.tflite", b"....TFL3")),
    (
        "an older one with the cache of another",
        lambda f: older_with(f, ".cache/litert.bin_1_6999.xnnpack_cache", PACKED),
    ),
    (
        "an older one with no cache in its cache",
        lambda f: older_with(f, ".cache/litert.bin_1_7000.xnnpack_cache", b"x"),
    ),
]


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in THEIRS])
def test_a_persons_folder_survives(change: Callable[[Path], object], bundle: Path, tiny: TinyModel) -> None:
    change(bundle)
    before = content(bundle.parent)
    said: list[str] = []
    options = CompileOptions(checkpoint=tiny.directory, runtime="litert", recipe="int8", context=64, out=bundle)
    with pytest.raises(NotOurs, match="choose another --out"):
        compile_bundle(options, said.append, lambda runtime: FakeBackend(runtime))
    assert content(bundle.parent) == before
    assert "hashing the checkpoint" not in said


OURS: list[tuple[str, Callable[[Path], object]]] = [
    ("as it was made", lambda f: None),
    ("signed", lambda f: (f / "manifest.sig").write_bytes(SIGNATURE)),
    ("without its report", lambda f: (f / "report.html").unlink()),
    ("older", older),
    ("older with an empty cache", lambda f: [older(f), (f / ".cache").mkdir()]),
    ("older with a cache", lambda f: older_with(f, ".cache/litert.bin_1795979269_7000.xnnpack_cache", PACKED)),
]


@pytest.mark.parametrize("change", [pytest.param(change, id=name) for name, change in OURS])
def test_a_bundle_of_ours_is_replaced(change: Callable[[Path], object], bundle: Path, tiny: TinyModel) -> None:
    change(bundle)
    compile_to(bundle, tiny.directory)
    assert names(bundle.parent) == ["bundle"]
    assert names(bundle) == ["litert.bin", MANIFEST, "report.html", "tokenizer.json"]
    open_bundle(bundle)


def test_a_note_that_is_added_during_the_compile_survives(bundle: Path, tiny: TinyModel) -> None:
    class Adding(FakeBackend):
        def lower(self, job: Job) -> Lowered:
            (bundle / "notes.md").write_text("mine", "utf-8")
            return super().lower(job)

    before = content(bundle)
    with pytest.raises(NotOurs, match=r"notes\.md in it appeared meanwhile"):
        compile_to(bundle, tiny.directory, Adding)
    assert content(bundle) == before | {"notes.md": b"mine"}
    (bundle / "notes.md").unlink()
    compile_to(bundle, tiny.directory)
    assert names(bundle.parent) == ["bundle"]


def overwrite(path: Path) -> None:
    """Change bytes in place and set the time back, as a copy tool that keeps times does."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(-8, os.SEEK_END)
        file.write(b"\0" * 8)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace(path: Path) -> None:
    data = path.read_bytes()
    path.rename(path.with_name("before"))
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.safetensors", overwrite),
        ("config.json", append),
        ("tokenizer.json", replace),
        ("tokenizer.model", append),
        ("chat_template.jinja", Path.unlink),
        ("preprocessor_config.json", lambda p: p.write_text("{}", "utf-8")),
    ],
)
def test_a_checkpoint_that_changes_during_the_compile(
    name: str, change: Callable[[Path], object], tiny_copy: Path, tmp_path: Path
) -> None:
    class Changing(FakeBackend):
        def lower(self, job: Job) -> Lowered:
            lowered = super().lower(job)
            change(tiny_copy / name)
            return lowered

    (tmp_path / "out").mkdir()
    with pytest.raises(SourceChanged, match=name.replace(".", r"\.")):
        compile_to(tmp_path / "out" / "bundle", tiny_copy, Changing)
    assert names(tmp_path / "out") == []


def test_a_checkpoint_that_changes_while_a_bundle_is_verified(
    bundle: Path, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verify(job: Job, backends: object) -> Parity:
        overwrite(tiny_copy / "model.safetensors")
        return Parity([], [])

    opened = open_bundle(bundle)
    monkeypatch.setattr(parity, "verify", verify)
    with pytest.raises(SourceChanged, match=r"model\.safetensors changed"):
        parity.compare(opened, tiny_copy, None, None, "cpu", lambda line: None)


def test_two_compiles_at_once(tiny: TinyModel, tmp_path: Path) -> None:
    """To one name the second is refused before any work, to another it is not."""
    out, said = tmp_path / "a", list[str]()

    class Meanwhile(FakeBackend):
        def lower(self, job: Job) -> Lowered:
            options = CompileOptions(checkpoint=tiny.directory, runtime="litert", recipe="int8", context=64, out=out)
            with pytest.raises(Busy, match=f"process {os.getpid()}, since"):
                compile_bundle(options, said.append, lambda runtime: FakeBackend(runtime))
            compile_to(tmp_path / "a.b", tiny.directory)
            return super().lower(job)

    compile_to(out, tiny.directory, Meanwhile)
    assert "hashing the checkpoint" not in said
    assert names(tmp_path) == ["a", "a.b"]
    first, second = (open_bundle(tmp_path / name).manifest["files"] for name in ("a", "a.b"))
    assert first == second

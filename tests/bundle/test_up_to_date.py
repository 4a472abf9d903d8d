"""The same compile again: nothing is lowered, unless anything that went in or came out has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from g3n_compiler.bundle import fingerprint
from g3n_compiler.bundle.signing import SigningKey
from g3n_compiler.cli.compile import _asked
from g3n_compiler.compile import compile_or_keep
from g3n_compiler.errors import NotOurs
from g3n_compiler.lower.artifact import Lowered
from g3n_compiler.lower.job import Job
from g3n_compiler.request.open import open_request
from g3n_compiler.request.options import CompileOptions
from g3n_compiler.request.request import BESIDE_THE_FILES, FROM_CHECKPOINT, Request
from g3n_compiler.slice.choose import Choice
from g3n_compiler.slice.elastic import Size
from g3n_compiler.slice.plan import Slice
from g3n_compiler.source import Source
from g3n_compiler.targets import get_target
from g3n_compiler.verify import run
from g3n_compiler.verify.checks import Check
from g3n_runtime.bundle import MANIFEST, SIGNATURE, open_bundle
from g3n_runtime.errors import SignatureError
from g3n_runtime.json_digest import with_digest
from g3n_runtime.signature import check_signature
from tests.android.signed import KEY, OTHER_KEY
from tests.bundle.folders import content, names
from tests.conftest import TinyModel
from tests.fakes import FakeBackend

FINGERPRINT = "0" * 64


class Lowers(Exception):
    """A compile went as far as lowering."""


class Lowering(FakeBackend):
    def lower(self, job: Job) -> Lowered:
        raise Lowers


class Compiling:
    """Compiles a checkpoint to one place."""

    def __init__(self, checkpoint: Path, out: Path) -> None:
        self.options = CompileOptions(
            checkpoint=checkpoint, runtime="litert", recipe="int8", context=64, out=out, command="g3n-compile"
        )

    def __call__(self, backend: type[FakeBackend] = Lowering, **changes: Any) -> bool:
        """Whether all was up to date; raises :class:`Lowers` if not."""
        self.said: list[str] = []
        outcome = compile_or_keep(replace(self.options, **changes), self.said.append, backend)
        assert outcome.directory == self.options.out
        return outcome.up_to_date


@pytest.fixture(scope="module")
def made(tiny: TinyModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle; onnxruntime's part is slow and has its own test, so its place is held by one check."""
    check = Check("held", "core", "onnxruntime", "eager fp32", "relative error", 0.0, 1.0)
    out = tmp_path_factory.mktemp("made") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "onnx_checks", lambda *_: [check])
        assert not Compiling(tiny.directory, out)(FakeBackend)
    return out


@pytest.fixture
def compiling(made: Path, tiny: TinyModel, tmp_path: Path) -> Compiling:
    """The compile that made the bundle, of a copy of its checkpoint with the same name, to a copy of it."""
    (tmp_path / "made").mkdir()
    copy = Path(shutil.copytree(tiny.directory, tmp_path / "copy" / tiny.directory.name))
    return Compiling(copy, Path(shutil.copytree(made, tmp_path / "made" / "bundle")))


@pytest.fixture
def bundle(compiling: Compiling) -> Path:
    assert compiling.options.out is not None
    return compiling.options.out


def test_the_same_compile_again_lowers_nothing(compiling: Compiling, bundle: Path) -> None:
    before = content(bundle.parent), [path.stat().st_ino for path in sorted(bundle.iterdir())]
    assert compiling()
    assert (content(bundle.parent), [path.stat().st_ino for path in sorted(bundle.iterdir())]) == before
    with pytest.raises(Lowers):
        compiling(force=True)


def flip_last_byte(path: Path) -> None:
    """Change one byte in place, and set the time back: neither size nor time tells."""
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def append(path: Path) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("\n")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.safetensors", flip_last_byte),
        ("config.json", append),
        ("tokenizer.json", append),
        ("tokenizer_config.json", append),
        ("tokenizer.model", Path.unlink),
        ("chat_template.jinja", append),
        ("generation_config.json", append),
        ("preprocessor_config.json", lambda path: path.write_text("{}", "utf-8")),
    ],
)
def test_an_input_that_changed(name: str, change: Callable[[Path], object], compiling: Compiling) -> None:
    assert compiling.options.checkpoint is not None
    change(compiling.options.checkpoint / name)
    with pytest.raises(Lowers):
        compiling()


@pytest.mark.parametrize(
    "changes",
    [{"context": 65}, {"recipe": "int4"}, {"target": "pixel"}, {"prefill_lengths": (8,)}, {"max_loss": 9.0}],
)
def test_another_request(changes: Mapping[str, Any], compiling: Compiling) -> None:
    with pytest.raises(Lowers):
        compiling(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"command": "g3n-compile --context=64"},
        {"modalities": ("text",)},
        {"modalities": ("text", "audio")},
        {"prefill_lengths": (63,)},
    ],
    ids=str,
)
def test_other_words_for_the_same_request_are_up_to_date(changes: Mapping[str, Any], compiling: Compiling) -> None:
    assert compiling(**changes)


class Asking:
    """Requests of one checkpoint, each closed again."""

    def __init__(self, options: CompileOptions) -> None:
        self.options = options

    def __call__(self, **changes: Any) -> Request:
        request = open_request(replace(self.options, **changes), FakeBackend, lambda line: None)
        request.source.close()
        return request


@pytest.fixture
def asking(tiny: TinyModel, tmp_path: Path) -> Asking:
    return Asking(CompileOptions(checkpoint=tiny.directory, context=64, out=tmp_path / "out"))


@pytest.mark.parametrize("target", ["host", "pixel", "android"])
def test_the_runtimes_that_a_target_has_by_default_may_be_named(target: str, asking: Asking) -> None:
    default = asking(target=target)
    named = "both" if len(default.backends) > 1 else next(iter(default.backends))
    assert asking(target=target, runtime=named).decides_bytes() == default.decides_bytes()


def test_each_field_of_a_request_is_in_the_key_or_is_said_to_stay_out(asking: Asking) -> None:
    request = asking()
    key = request.decides_bytes()
    assert key.keys() | BESIDE_THE_FILES.keys() == {field.name for field in fields(Request)}
    assert not key.keys() & BESIDE_THE_FILES.keys()
    assert key["source"].keys() | set(FROM_CHECKPOINT) == {field.name for field in fields(Source)}
    others = {
        "target": get_target("android"),
        "recipe": replace(request.recipe, logit_tolerance=0.5),
        "backends": {"litert": FakeBackend("litert")},
        "source": replace(request.source, modalities=("text", "vision")),
        "choice": Choice(Slice((0,), (32,)), None, "as asked for"),
        "sizes": (Size("full", Slice((0,), (32,)), request.source.text, (0,)),),
        "destination": replace(request.destination, path=request.destination.path.with_name("another")),
    }
    for name in key:
        before = getattr(request, name)
        other = others.get(name) or (
            f"{before}x" if isinstance(before, str) else 9 if isinstance(before, int) else (9,)
        )
        assert replace(request, **{name: other}).decides_bytes() != key, name


def test_a_new_field_of_a_request_is_in_the_key(asking: Asking) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Later(Request):
        added: object

    request = asking()
    known = {field.name: getattr(request, field.name) for field in fields(request)}
    assert Later(**known, added=1).decides_bytes() != Later(**known, added=2).decides_bytes()
    with pytest.raises(TypeError, match="decides the bundle's files"):
        Later(**known, added=object()).decides_bytes()


def test_other_code_or_another_toolchain(compiling: Compiling, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_code_hashes", lambda: {"g3n_compiler/compile.py": FINGERPRINT})
        with pytest.raises(Lowers):
            compiling()
    monkeypatch.setattr(fingerprint, "version", lambda name: "0.0.1")
    with pytest.raises(Lowers):
        compiling()


def test_the_fingerprint_counts_code_templates_and_tables_but_no_weights() -> None:
    counted = set(fingerprint._code_hashes())
    assert {"g3n_compiler/compile.py", "g3n_compiler/report/report.html.jinja", "g3n_runtime/bundle.py"} <= counted
    assert {"g3n_compiler/models/gemma3n/published.csv", "g3n_runtime/manifest.schema.json"} <= counted
    assert not [name for name in counted if name.endswith((".safetensors", ".pyc"))]


@pytest.mark.parametrize("name", ["litert.bin", "tokenizer.json", "report.html", MANIFEST])
def test_a_file_that_was_changed_is_not_called_up_to_date(name: str, compiling: Compiling, bundle: Path) -> None:
    flip_last_byte(bundle / name)
    with pytest.raises(NotOurs, match="choose another --out"):
        compiling()


@pytest.mark.parametrize("name", ["litert.bin", "tokenizer.json", "report.html"])
def test_a_file_that_is_missing_is_made_again(name: str, compiling: Compiling, bundle: Path) -> None:
    (bundle / name).unlink()
    with pytest.raises(Lowers):
        compiling()


def test_a_bundle_without_a_fingerprint_is_read_and_made_again(
    compiling: Compiling, bundle: Path, edit_json: Callable[[Path, Callable[[dict[str, Any]], None]], None]
) -> None:
    def age(manifest: dict[str, Any]) -> None:
        del manifest["provenance"]["fingerprint"]
        rest = {name: value for name, value in manifest.items() if name != "digest"}
        manifest.update(with_digest(rest))

    edit_json(bundle / MANIFEST, age)
    open_bundle(bundle)
    with pytest.raises(Lowers):
        compiling()


@pytest.mark.parametrize("keys", [(KEY,), (KEY, OTHER_KEY), (KEY, None)])
def test_what_is_up_to_date_gets_the_signature_that_is_asked_for(
    keys: tuple[SigningKey | None, ...], compiling: Compiling, bundle: Path
) -> None:
    unsigned = content(bundle)
    for key in keys:
        assert compiling(sign=key)
        if key is not None:
            assert check_signature(open_bundle(bundle)) == key.public
        assert any("removing the signature" in line for line in compiling.said) == (key is None)
    assert names(bundle.parent) == ["bundle"]
    after = content(bundle)
    assert (after.pop(SIGNATURE, None) is None) == (keys[-1] is None) and after == unsigned


def test_a_signature_of_other_bytes_is_written_anew(compiling: Compiling, bundle: Path) -> None:
    compiling(sign=KEY)
    signature = (bundle / SIGNATURE).read_text(encoding="utf-8")
    (bundle / SIGNATURE).write_text(signature.replace('"payload": "', '"payload": "AAAA'), encoding="utf-8")
    with pytest.raises(SignatureError):
        check_signature(open_bundle(bundle))
    compiling(sign=KEY)
    assert check_signature(open_bundle(bundle)) == KEY.public


@pytest.mark.parametrize("words", ["-q", "-vq", "--verbose", "--force", "--format json", "--format=json --sign me.pem"])
def test_how_a_compile_talks_is_no_part_of_what_it_makes(words: str) -> None:
    assert _asked(["/bin/g3n-compile", *words.split(), "--context", "64"]) == "g3n-compile --context 64"

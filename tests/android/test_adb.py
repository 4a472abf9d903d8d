"""An adb that floods, stalls, ends early or answers with nonsense is an error, and a device's words are data."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from g3n_runtime.adb import Adb
from g3n_runtime.bundle import Bundle
from g3n_runtime.errors import AdbError, BundleError, UnsafePath
from g3n_runtime.push import FOLDER, device_facts, remote_folder

DEVICES = 'if [ "$1" = devices ]; then printf "x\\tdevice\\n"; exit 0; fi\n'
PATIENCE = 1.0


def fake(tmp_path: Path, body: str) -> str:
    program = tmp_path / "adb"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("yes", "said more than"),
        ("yes >&2", "said more than"),
        ("exec sleep 60", "gave no answer"),
        ("exit 3", "exit code 3"),
        ("printf '\\033[2J\\tdevice\\n'", "no device"),
        ("head -c 100000 /dev/zero", "no device"),
    ],
)
def test_no_adb_at_all(tmp_path: Path, body: str, words: str) -> None:
    start = time.monotonic()
    with pytest.raises(AdbError, match=words):
        Adb(fake(tmp_path, body), patience=PATIENCE)
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("body", ["exec sleep 60", "cat > /dev/null; exec sleep 60"])
def test_a_copy_that_stalls_is_given_up(tmp_path: Path, body: str) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(1 << 20))
    adb = Adb(fake(tmp_path, DEVICES + body), patience=PATIENCE)
    with pytest.raises(AdbError, match=r"took nothing for 1 s|gave no answer within 1 s"):
        adb.append(source, 0, "/data/x", lambda nbytes: None)


def test_a_copy_whose_adb_floods_or_ends_is_given_up(tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(bytes(1 << 20))
    for body, words in (("yes", "said more than|broke off|took nothing"), ("exit 1", "broke off")):
        adb = Adb(fake(tmp_path, DEVICES + body), patience=PATIENCE)
        with pytest.raises(AdbError, match=words):
            adb.append(source, 0, "/data/x", lambda nbytes: None)


@pytest.mark.parametrize("answer", ["", "nonsense", "9" * 5000, "-5", "nan", "MemTotal: 1e9 kB", "MemTotal: x kB"])
def test_answers_that_are_no_devices(tmp_path: Path, answer: str) -> None:
    adb = Adb(fake(tmp_path, DEVICES + f"echo '{answer}'"))
    with pytest.raises(AdbError, match="does not answer as an Android device does"):
        device_facts(adb)


def test_the_folder_on_the_device(tmp_path: Path) -> None:
    def named(directory: Path, *paths: str) -> str:
        return remote_folder(Bundle(directory, {"files": [{"path": path} for path in paths]}))

    (tmp_path / "a b" / "sub").mkdir(parents=True)
    assert named(tmp_path / "a b" / "sub" / "..", "x/model.pte") == f"{FOLDER}/a b"
    assert named(tmp_path / "-rf") == f"{FOLDER}/-rf"
    for name in ("a\nb", "a\x1b[2J", "a\u202eb", "x" * 201):
        with pytest.raises(BundleError, match="rename it"):
            named(tmp_path / name)
    with pytest.raises(BundleError, match="rename it"):
        named(Path("/"))
    for path in ("a\nb", "../x", "a/../../x", "\x1b"):
        with pytest.raises(UnsafePath):
            named(tmp_path / "a b", path)

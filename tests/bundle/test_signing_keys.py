"""Key files that can sign or verify, those that cannot, and the keys that a user accepted."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from g3n_compiler.cli.compile import main as compile_main
from g3n_runtime.accepted_keys import AcceptedKeys, accepted_keys_file
from g3n_runtime.errors import KeyFileError
from g3n_runtime.public_key import load_public_key, parse_fingerprint
from tests.bundle.signed_bundle import Keys, expect, verify


def test_the_fingerprint_is_what_openssl_says(keys: Keys) -> None:
    command = ["openssl", "pkey", "-pubin", "-in", str(keys.public), "-outform", "DER"]
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here")
    der = subprocess.run(command, capture_output=True, check=True).stdout
    assert load_public_key(keys.public).fingerprint.replace("-", "") == hashlib.sha256(der).hexdigest()


def write_key(path: Path, what: str, keys: Keys) -> Path:
    p256 = ec.generate_private_key(ec.SECP256R1())
    private = (Encoding.PEM, PrivateFormat.PKCS8)
    path.touch(mode=0o600)
    match what:
        case "encrypted":
            path.write_bytes(p256.private_bytes(*private, BestAvailableEncryption(b"secret")))
        case "another curve":
            path.write_bytes(ec.generate_private_key(ec.SECP384R1()).private_bytes(*private, NoEncryption()))
        case "rsa":
            path.write_bytes(rsa.generate_private_key(65537, 1024).private_bytes(*private, NoEncryption()))
        case "public":
            return keys.public
        case "no key":
            path.write_text("hello")
        case "cut":
            path.write_bytes(keys.private.read_bytes()[:100])
        case "a folder":
            return path.parent
        case "a pipe":
            path.unlink()
            os.mkfifo(path)
        case "nothing":
            path.unlink()
        case "large":
            path.write_bytes(b"\0" * (1 << 20))
    return path


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("encrypted", "is encrypted"),
        ("another curve", "secp384r1"),
        ("rsa", "RSAPrivateKey"),
        ("public", "holds a public key"),
        ("no key", "openssl genpkey"),
        ("cut", "openssl genpkey"),
        ("a folder", "is a folder"),
        ("a pipe", "is a pipe"),
        ("nothing", "is missing"),
        ("large", "at most"),
    ],
)
def test_a_key_that_cannot_sign_is_told_before_any_work(what: str, words: str, keys: Keys, tmp_path: Path) -> None:
    path = write_key(tmp_path / "key", what, keys)
    out = tmp_path / "out" / "bundle"
    # a checkpoint that is not there would be the first thing to be told
    result = CliRunner().invoke(compile_main, ["--sign", str(path), "--checkpoint", "/nowhere", "--out", str(out)])
    expect(result, KeyFileError, words)
    assert not out.parent.exists()


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("encrypted", "holds a private key"),
        ("rsa", "holds a private key"),
        ("no key", "openssl pkey"),
        ("a pipe", "is a pipe"),
        ("nothing", "is missing"),
    ],
)
def test_a_key_that_cannot_verify_is_told(
    what: str, words: str, signed_bundle: Path, keys: Keys, tmp_path: Path
) -> None:
    expect(verify(signed_bundle, write_key(tmp_path / "key", what, keys)), KeyFileError, words)


def test_a_public_key_of_another_curve_is_told(signed_bundle: Path, tmp_path: Path) -> None:
    other = ec.generate_private_key(ec.SECP384R1()).public_key()
    (tmp_path / "key").write_bytes(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    expect(verify(signed_bundle, tmp_path / "key"), KeyFileError, "P-256")


def test_a_private_key_that_others_may_read_is_warned_of(keys: Keys, tmp_path: Path) -> None:
    command = ["--sign", str(keys.private), "--checkpoint", "/nowhere", "--out", str(tmp_path / "out" / "bundle")]
    assert "warning" not in CliRunner().invoke(compile_main, command).output
    keys.private.chmod(0o640)
    assert "chmod 600" in CliRunner().invoke(compile_main, command).output


def test_accepted_keys_are_kept_and_read_as_a_stranger_wrote_them(tmp_path: Path) -> None:
    path = tmp_path / "config" / "accepted_keys"
    first, second = ("-".join([digit * 8] * 8) for digit in "ab")
    keys = AcceptedKeys(path)
    assert first not in keys
    keys.add(first, "of a\nfriend")
    path.write_text(path.read_text().rstrip("\n") + "\n# a note\n\n" + second.upper().replace("-", ":"))
    assert first in keys and second in keys
    keys.add("-".join(["c" * 8] * 8), "third\x1b[2J")
    assert path.read_text().endswith("third\\x1b[2J\n")
    assert len(path.read_text().splitlines()) == 5
    assert first in keys and second in keys
    path.write_text("hello\n")
    with pytest.raises(KeyFileError, match="not a fingerprint"):
        assert first in keys


def test_where_accepted_keys_lie(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert accepted_keys_file() == tmp_path / "g3n" / "accepted_keys"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert accepted_keys_file() == Path.home() / ".config" / "g3n" / "accepted_keys"


def test_a_fingerprint_is_read_as_people_write_it() -> None:
    plain = "0123456789abcdef" * 4
    shown = parse_fingerprint(plain)
    assert shown == parse_fingerprint(shown.upper()) == parse_fingerprint(shown.replace("-", " "))
    with pytest.raises(KeyFileError):
        parse_fingerprint(plain[1:])

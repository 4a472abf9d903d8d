"""Signing a bundle and verifying it by its key: what holds, and what the commands say around it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from g3n_compiler.bundle.signing import load_signing_key, sign_bundle
from g3n_compiler.cli.common import without_option
from g3n_compiler.cli.verify import main as verify_main
from g3n_runtime.bundle import MANIFEST, SIGNATURE, open_bundle
from g3n_runtime.errors import BundleError, CannotCheckSignature, SignatureError, UnsafePath
from g3n_runtime.public_key import load_public_key
from tests.bundle.signed_bundle import Keys, expect, make_bundle, verify


def test_a_signed_bundle_is_verified_by_its_key(signed_bundle: Path, keys: Keys) -> None:
    result = verify(signed_bundle, keys.public)
    assert result.exit_code == 0, result.output
    assert result.output == f"signed by: {load_public_key(keys.public).fingerprint}\n"


def test_signing_again_gives_the_same_bytes(signed_bundle: Path, keys: Keys) -> None:
    before = (signed_bundle / SIGNATURE).read_bytes()
    sign_bundle(signed_bundle, open_bundle(signed_bundle).manifest, load_signing_key(keys.private))
    assert (signed_bundle / SIGNATURE).read_bytes() == before


def swap_file_and_manifest(bundle: Path) -> None:
    (bundle / "model.pte").write_text("another")
    manifest = json.loads((bundle / MANIFEST).read_text())
    entry = next(e for e in manifest["files"] if e["path"] == "model.pte")
    entry["sha256"] = hashlib.sha256(b"another").hexdigest()
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def link_out(bundle: Path) -> None:
    (bundle / SIGNATURE).rename(bundle.parent / "elsewhere")
    (bundle / SIGNATURE).symlink_to(bundle.parent / "elsewhere")


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        pytest.param(lambda b: (b / SIGNATURE).unlink(), SignatureError, "is not signed", id="no signature"),
        pytest.param(lambda b: (b / "model.pte").write_text("progrbm"), SignatureError, "model.pte", id="a file"),
        pytest.param(swap_file_and_manifest, SignatureError, "not the one that was signed", id="file and manifest"),
        pytest.param(
            lambda b: (b / MANIFEST).write_text((b / MANIFEST).read_text() + " "),
            SignatureError, "not the one that was signed", id="a space in the manifest",
        ),
        pytest.param(lambda b: (b / "report.html").write_text("x"), SignatureError, "report.html", id="the report"),
        pytest.param(lambda b: (b / "model.pte").unlink(), BundleError, "is missing", id="a missing file"),
        pytest.param(lambda b: (b / SIGNATURE).write_text(""), SignatureError, "not JSON", id="an empty signature"),
        pytest.param(lambda b: (b / SIGNATURE).write_bytes(b"\xff"), SignatureError, "UTF-8", id="no text"),
        pytest.param(
            lambda b: (b / SIGNATURE).write_bytes(b" " * (2 << 20)), SignatureError, "at most", id="a large signature"
        ),
        pytest.param(
            lambda b: ((b / SIGNATURE).unlink(), os.mkfifo(b / SIGNATURE)), SignatureError, "pipe", id="a pipe"
        ),
        pytest.param(
            lambda b: ((b / SIGNATURE).unlink(), (b / SIGNATURE).mkdir()), SignatureError, "folder", id="a folder"
        ),
        pytest.param(link_out, UnsafePath, "is a link", id="a link"),
    ],
)  # fmt: skip
def test_what_was_not_signed_is_told(signed_bundle: Path, keys: Keys, spoil: Any, error: type, words: str) -> None:
    spoil(signed_bundle)
    expect(verify(signed_bundle, keys.public), error, words)


def test_another_key_and_another_bundle_are_told(signed_bundle: Path, keys: Keys, tmp_path: Path) -> None:
    other = Keys(tmp_path, "other")
    fingerprints = [load_public_key(k.public).fingerprint for k in (keys, other)]
    expect(verify(signed_bundle, other.public), SignatureError, *fingerprints)
    second = make_bundle(tmp_path / "second", keys, name="second")
    shutil.copy(second / SIGNATURE, signed_bundle / SIGNATURE)
    expect(verify(signed_bundle, keys.public), SignatureError, "another bundle's")


def test_a_signature_that_names_our_key_must_be_of_it(signed_bundle: Path, keys: Keys, tmp_path: Path) -> None:
    forged = make_bundle(tmp_path / "forged", Keys(tmp_path, "other"))
    tree, own = (json.loads((b / SIGNATURE).read_text()) for b in (forged, signed_bundle))
    tree["verificationMaterial"] = own["verificationMaterial"]
    (forged / SIGNATURE).write_text(json.dumps(tree))
    expect(verify(forged, keys.public), SignatureError, "not a signature of the key")


def test_a_compile_command_without_its_key() -> None:
    words = ["g3n-compile", "--sign", "key.pem", "--size", "nano", "--sign=other.pem", "--signs"]
    assert without_option(words, "--sign") == ["g3n-compile", "--size", "nano", "--signs"]


def test_signature_only_needs_a_key(signed_bundle: Path) -> None:
    assert "--key" in CliRunner().invoke(verify_main, [str(signed_bundle), "--signature-only"]).output


def test_without_the_package_it_is_said(signed_bundle: Path, keys: Keys) -> None:
    code = f"""
import sys
sys.modules["cryptography"] = None
from g3n_compiler.cli.verify import main
main([{str(signed_bundle)!r}, "--key", {str(keys.public)!r}])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == CannotCheckSignature.exit_code, result.stderr
    assert "pip install 'g3n[sign]'" in result.stderr

"""A small bundle that is signed with a key made for it, and what the command says of it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from g3n_compiler.bundle.signing import load_signing_key, sign_bundle
from g3n_compiler.cli.verify import main as verify_main
from g3n_runtime.bundle import MANIFEST
from g3n_runtime.errors import G3nError
from tests.android.golden import DIRECTORY
from tests.android.signed import signed_vectors

VECTORS = signed_vectors(json.loads((DIRECTORY / "manifest_short.json").read_text(encoding="utf-8")))
"""A bundle's files, manifest and signature, and changed signatures with what is to be said of each."""


class Keys:
    """A pair of key files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.private, self.public = folder / name, folder / f"{name}.pub"
        key = ec.generate_private_key(ec.SECP256R1())
        self.private.touch(mode=0o600)
        self.private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def make_bundle(folder: Path, keys: Keys, **changes: Any) -> Path:
    """A signed bundle of the vectors' files."""
    folder.mkdir()
    for name, text in VECTORS["files"].items():
        (folder / name).write_text(text)
    (folder / "report.html").write_text("a report")
    manifest = json.loads(VECTORS["manifest"]) | changes
    (folder / MANIFEST).write_text(json.dumps(manifest))
    sign_bundle(folder, manifest, load_signing_key(keys.private))
    return folder


def verify(bundle: Path, key: Path) -> Result:
    return CliRunner().invoke(verify_main, [str(bundle), "--key", str(key), "--signature-only"])


def expect(result: Result, error: type[G3nError], *words: str) -> None:
    assert result.exit_code == error.exit_code, result.output + repr(result.exception)
    assert "Traceback" not in result.output
    for word in words:
        assert word in result.output, result.output


def statement(signature: dict[str, Any]) -> Any:
    return json.loads(base64.b64decode(signature["dsseEnvelope"]["payload"]))

"""The model-signing library and we read what the other writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from g3n_compiler.bundle.signing import load_signing_key, sign_bundle
from g3n_runtime.bundle import MANIFEST, SIGNATURE, Bundle
from g3n_runtime.errors import CannotCheckSignature, SignatureError
from g3n_runtime.public_key import load_public_key
from g3n_runtime.signature import check_signature
from tests.bundle.signed_bundle import Keys, statement

BY_LIBRARY = json.loads((Path(__file__).parent / "model_signing.json").read_text(encoding="utf-8"))


@pytest.fixture
def by_library(tmp_path: Path) -> Path:
    """A folder that the library signed, and its public key beside it."""
    for name, text in BY_LIBRARY["files"].items():
        path = tmp_path / "library" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "library.pub").write_text(BY_LIBRARY["public_key"])
    return tmp_path / "library"


def test_what_the_library_signed_is_verified(by_library: Path) -> None:
    opened = Bundle(by_library, json.loads((by_library / MANIFEST).read_text()))
    key = load_public_key(by_library.with_suffix(".pub"))
    assert check_signature(opened, key) == key
    with pytest.raises(CannotCheckSignature, match="--key"):
        check_signature(opened)
    (by_library / "sub" / "t.json").write_text("changed")
    with pytest.raises(SignatureError, match="sub/t"):
        check_signature(opened, key)


def test_we_write_what_the_library_writes(by_library: Path, keys: Keys) -> None:
    theirs = json.loads((by_library / SIGNATURE).read_text())
    sign_bundle(by_library, json.loads((by_library / MANIFEST).read_text()), load_signing_key(keys.private))
    ours = json.loads((by_library / SIGNATURE).read_text())
    assert shape(theirs) == shape(ours) - {"verificationMaterial/publicKey/rawBytes"}
    assert statement(theirs)["predicate"]["resources"] == statement(ours)["predicate"]["resources"]
    assert statement(theirs)["subject"][0]["digest"] == statement(ours)["subject"][0]["digest"]
    assert shape(statement(theirs)) == shape(statement(ours))


def shape(value: Any, path: str = "") -> set[str]:
    """Names of all members; of a list only the first item's."""
    if isinstance(value, list):
        value = {"0": value[0]} if value and isinstance(value[0], dict) else {}
    if not isinstance(value, dict):
        return {path}
    return {path} | {inner for name, v in value.items() for inner in shape(v, f"{path}/{name}".lstrip("/"))}

"""The vectors that the app is tested with are what this side does now: if one side changes, a test of it fails."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from g3n_runtime.bundle import schema
from tests.android.golden import DIRECTORY, encode, vectors

NAMES = (
    "manifest_short.json",
    "manifest_mutations.json",
    "paths.json",
    "conversations.json",
    "tokens.json",
    "tables.json",
    "signatures.json",
)


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return json.loads((DIRECTORY / "manifest.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def current(manifest: dict[str, Any]) -> dict[str, Any]:
    return vectors(manifest)


def test_the_apps_manifest_is_valid(manifest: dict[str, Any]) -> None:
    jsonschema.validate(manifest, schema())


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_up_to_date(name: str, current: dict[str, Any]) -> None:
    kept = (DIRECTORY / name).read_text(encoding="utf-8")
    assert kept == encode(current[name]), "run python -m tests.android.golden with a bundle of nano"


def test_mutations_are_of_both_kinds(current: dict[str, Any]) -> None:
    verdicts = [m["valid"] for m in current["manifest_mutations.json"]]
    assert verdicts.count(True) > 50 and verdicts.count(False) > 500

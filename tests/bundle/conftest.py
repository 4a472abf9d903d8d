"""A signed bundle for the tests of signatures."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bundle.signed_bundle import Keys, make_bundle


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "mine")


@pytest.fixture
def signed_bundle(tmp_path: Path, keys: Keys) -> Path:
    """Signed with the private one of ``keys``."""
    return make_bundle(tmp_path / "bundle", keys)

"""What the tests of bundles share: a signed bundle, and compiles without onnxruntime."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from g3n_compiler.verify import run as verify_run
from g3n_compiler.verify.checks import Check
from tests.bundle.signed_bundle import Keys, make_bundle


@pytest.fixture(scope="module", autouse=True)
def without_onnx() -> Iterator[None]:
    """onnxruntime's part is slow and has its own test; here its place is held by one check."""
    check = Check("held", "core", "onnxruntime", "eager fp32", "relative error", 0.0, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verify_run, "onnx_checks", lambda *_: [check])
        yield


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return Keys(tmp_path, "mine")


@pytest.fixture
def signed_bundle(tmp_path: Path, keys: Keys) -> Path:
    """Signed with the private one of ``keys``."""
    return make_bundle(tmp_path / "bundle", keys)

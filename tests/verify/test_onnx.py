"""Every subgraph under onnxruntime equals eager, and a spoilt reference is noticed."""

from __future__ import annotations

import dataclasses

from g3n_compiler.verify.onnx.checks import onnx_checks
from g3n_compiler.verify.reference import Reference
from tests.conftest import TinyModel, ids_of


def test_subgraphs_equal_eager_beyond_the_window(tiny: TinyModel) -> None:
    source = tiny.open()
    ids = ids_of(70, source.text.vocab_size)
    checks = onnx_checks(source, ids, Reference(source).logits(ids).numpy())
    assert [c.subgraph for c in checks] == ["core", "token_embedding", "per_layer_embedding"]
    assert all(c.passed for c in checks), checks
    assert not dataclasses.replace(checks[0], value=2e-4).passed

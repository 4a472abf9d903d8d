"""What each layer of a lowered program gives, against the reference fed with what the program gave before it."""

from __future__ import annotations

import numpy as np

from g3n_compiler.lower.executorch.layers import PROBE, ProbedLayers
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.verify.layers import layer_errors
from g3n_runtime.executorch.model import ExecuTorchModel
from tests.conftest import ids_of
from tests.executorch.conftest import CHUNK, WINDOW, Lower


def test_each_layer_follows_from_the_one_before(lowered: Lower) -> None:
    one = lowered("int4")
    ids, prompt = ids_of(3 * WINDOW, one.config.vocab_size), 2 * CHUNK + 5
    errors = layer_errors(one.reference, ProbedLayers(one.parts, one.config), ids, prompt)
    assert len(errors.parts) == one.config.num_layers + 1
    assert errors.worst < get_recipe("int4").layer_tolerance, errors
    whole = ExecuTorchModel(one.parts)
    np.testing.assert_array_equal(whole.prefilled_logits(ids, prompt), errors.logits)


def test_a_prompt_that_ends_with_a_chunk(lowered: Lower) -> None:
    one = lowered("int4")
    ids = ids_of(2 * CHUNK, one.config.vocab_size)
    errors = layer_errors(one.reference, ProbedLayers(one.parts, one.config), ids, len(ids))
    assert errors.logits.shape[0] == 1
    np.testing.assert_array_equal(ExecuTorchModel(one.parts, PROBE).prefill(ids), errors.logits[0])

"""What each layer of a lowered program gives, against the eager decoder fed with what the program gave before it."""

from __future__ import annotations

import itertools

import numpy as np
import torch

from g3n_compiler.modules.cache import EagerCache
from g3n_compiler.verify.parity import relative_error
from g3n_runtime.executorch_model import ExecuTorchModel, LayerProbe
from tests.executorch.conftest import WINDOW, Lower
from tests.modules.test_decoder import ids_of


@torch.no_grad()
def test_each_layer_follows_from_the_one_before(lowered: Lower) -> None:
    one = lowered("int4")
    ids = ids_of(2 * WINDOW, one.config.vocab_size)
    got, decoder, tables = LayerProbe(one.parts).layer_outputs(ids), one.reference.decoder, one.reference.tables
    assert got.shape == (one.config.num_layers + 1, len(ids), one.config.altup_num_inputs, one.config.hidden_size)
    state = decoder.begin(tables.embeddings(ids), tables.ple(ids), torch.arange(len(ids)))
    cache = EagerCache(one.config)
    for i, (before, after) in enumerate(itertools.pairwise(got)):
        into = tuple(torch.from_numpy(before[None, :, n]) for n in range(before.shape[1]))
        out = decoder.layer(i, state._replace(streams=into), cache)
        expected = torch.stack(out.streams, 2)[0].numpy()
        errors = [
            relative_error(a[None].reshape(1, -1), e.reshape(1, -1)) for a, e in zip(after, expected, strict=True)
        ]
        # A few roundings fall the other way; most tokens have none, and equal the reference.
        assert max(errors) < 0.02 and np.median(errors) < 1e-5, (i, errors)


def test_the_probe_gives_the_logits_of_the_method_that_is_shipped(lowered: Lower) -> None:
    one = lowered("int4")
    ids = ids_of(5, one.config.vocab_size)
    probe, model = ExecuTorchModel(one.parts, "layer_probe"), ExecuTorchModel(one.parts)
    np.testing.assert_array_equal(probe.logits(ids), model.logits(ids))

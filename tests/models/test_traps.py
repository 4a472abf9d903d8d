"""One test for each trap that shipped exporters fell into (text part): each undoes the right thing and must see it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from g3n_compiler.models.embedding_tables import EmbeddingTables, ple_row
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.registry import dead_weights, text_weights
from g3n_compiler.verify.checks import EXACT, relative_error
from g3n_compiler.verify.reference import Reference, hf_logits
from tests.conftest import TinyModel, ids_of, make_tiny


def broken_by(model: TinyModel, change: Callable[[Reference], None], length: int = 45) -> float:
    """Relative error to ``transformers`` after ``change`` has spoilt our decoder; sound before."""
    reference = Reference(model.open())
    ids = ids_of(length, reference.config.vocab_size)
    expected = hf_logits(model.hf, ids).numpy()
    assert relative_error(reference.logits(ids).numpy(), expected) < EXACT
    change(reference)
    return relative_error(reference.logits(ids).numpy(), expected)


def with_config(**changes: Any) -> Callable[[Reference], None]:
    def change(reference: Reference) -> None:
        reference.config = reference.decoder.config = dataclasses.replace(reference.config, **changes)

    return change


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"sparsity": (0.0,) * 10}, id="gaussian top-k left out"),
        pytest.param({"sparsity": (0.95,) * 2 + (0.0,) * 8}, id="sparsity on one layer too few"),
        pytest.param({"final_logit_softcap": 1e6}, id="softcap left out"),
        pytest.param({"sliding_window": 512}, id="window ignored"),
        pytest.param({"sliding_window": 17}, id="window off by one"),
        pytest.param({"rope_theta_sliding": 1e6}, id="one RoPE base for all layers"),
        pytest.param({"rms_norm_eps": 1e-2}, id="wrong epsilon"),
    ],
)
def test_config_field_matters(changes: dict[str, Any], tiny: TinyModel) -> None:
    assert broken_by(tiny, with_config(**changes)) > 10 * EXACT


def test_std_is_the_populations(tiny: TinyModel) -> None:
    """``unbiased=False``: with the sample's deviation instead, logits differ."""

    def unbiased(reference: Reference) -> None:
        mean = reference.decoder.dialect.mean

        class Unbiased(type(reference.decoder.dialect)):  # type: ignore[misc]
            def mean(self, x: Tensor) -> Tensor:
                n = x.shape[-1]
                return mean(x) * (n / (n - 1) if n == reference.config.ffn_dims[0] and bool((x >= 0).all()) else 1.0)

        reference.decoder.dialect = Unbiased()

    assert broken_by(tiny, unbiased) > 10 * EXACT


def test_altup_clip_is_a_training_clamp(tmp_path: Path) -> None:
    """Coefficients beyond the clip of 120 must act as they are; a reference that clamps at inference would differ."""
    model = make_tiny(tmp_path, altup_coef_clip=0.05)
    ids = ids_of(30, 4352)
    assert relative_error(Reference(model.open()).logits(ids).numpy(), hf_logits(model.hf, ids).numpy()) < EXACT


def test_altup_magnitudes_overflow_in_half_precision(tiny: TinyModel) -> None:
    """The mean of squares of a stream of magnitude 300 does not fit fp16, so graphs keep float32 there."""
    stream = torch.full((1, 1, 64), 300.0)
    assert torch.isinf((stream.half() * stream.half()).mean())
    assert torch.isfinite(Reference(tiny.open()).decoder._magnitude(stream)).all()


def test_shared_layers_read_their_owners_cache(tiny: TinyModel) -> None:
    config = tiny.open().text
    assert [config.kv_owner(i) for i in range(10)] == [0, 1, 2, 3, 4, 3, 3, 3, 3, 4]

    def own_type_ignored(reference: Reference) -> None:
        class Confused(TextConfig):
            def kv_owner(self, layer: int) -> int:
                return min(layer, self.num_kv_layers - 1)

        fields = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
        reference.decoder.config = Confused(**fields)

    assert broken_by(tiny, own_type_ignored) > 10 * EXACT


def test_dead_weights_of_shared_layers_are_not_read(tiny: TinyModel) -> None:
    config = tiny.open().text
    used = {spec.tensor for spec in text_weights(config).values()}
    dead = set(dead_weights(config))
    assert not used & dead
    assert "layers.5.self_attn.k_proj.weight" in dead and "layers.4.self_attn.k_proj.weight" in used


@pytest.mark.parametrize("token", [4096, 4224, 4351])
def test_ple_of_ids_beyond_the_table_is_row_0(token: int, tiny: TinyModel) -> None:
    source = tiny.open()
    assert ple_row(token, source.text) == 0
    tables = EmbeddingTables(source.text, source.read)
    expected = tiny.hf.model.get_per_layer_inputs(torch.tensor([[token]]))
    assert torch.equal(tables.ple([token]), tables.ple([0]))
    assert torch.allclose(tables.ple([token]), expected)
    assert not torch.equal(tables.ple([token]), tables.ple([4095]))


def test_attention_scale_is_one(tiny: TinyModel) -> None:
    def scaled(reference: Reference) -> None:
        norm = reference.decoder.norm
        root = reference.config.head_dim**-0.5
        reference.decoder.norm = lambda name, x: norm(name, x) * (root if name and name.endswith("q_norm") else 1)  # type: ignore[method-assign]

    assert broken_by(tiny, scaled) > 10 * EXACT


def test_values_are_normalised_without_weights(tiny: TinyModel) -> None:
    def unnormalised(reference: Reference) -> None:
        norm = reference.decoder.norm
        reference.decoder.norm = lambda name, x: x if name is None else norm(name, x)  # type: ignore[method-assign]

    assert broken_by(tiny, unnormalised) > 10 * EXACT

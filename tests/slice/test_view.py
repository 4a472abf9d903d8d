"""Slices as views: equal to plain indexing of the tensors, and to ``transformers`` built of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from g3n_compiler.errors import SliceError
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.gemma3n.transformers_model import load_hf
from g3n_compiler.models.registry import text_weights
from g3n_compiler.slice.plan import Slice, plan_slice
from g3n_compiler.source import Source
from g3n_compiler.tensor_account import account
from g3n_compiler.verify.checks import EXACT, relative_error
from g3n_compiler.verify.reference import Reference, hf_logits
from tests.conftest import TinyModel

SKIP = (1, 6, 8)
FFN = (64, 128, 96, 128, 64, 32, 128)


@pytest.fixture(scope="module")
def sliced(tiny: TinyModel) -> Source:
    return Source.open(tiny.directory, plan_slice(tiny.open().text, SKIP, FFN))


def test_every_tensor_equals_plain_indexing(tiny: TinyModel, sliced: Source) -> None:
    stored = load_file(tiny.directory / "model.safetensors")
    kept, ple = sliced.plan.kept, sliced.text.ple_dim
    assert kept == (0, 2, 3, 4, 5, 7, 9)
    for spec in (text_weights(sliced.text) | embedding_weights(sliced.text)).values():
        name = spec.name
        if name.startswith("layers."):
            _, new, rest = name.split(".", 2)
            old = kept[int(new)]
            if rest == "per_layer_model_projection":
                expected = stored["model.per_layer_model_projection.weight"].view(10, ple, -1)[old]
            else:
                full = f"model.layers.{old}.{rest}"
                expected = stored[full if full in stored else full + ".weight"]
                if rest in ("mlp.gate_proj", "mlp.up_proj"):
                    expected = expected[: FFN[int(new)]]
                elif rest == "mlp.down_proj":
                    expected = expected[:, : FFN[int(new)]]
        elif name == "embed_tokens_per_layer":
            expected = stored[f"model.{name}.weight"].view(-1, 10, ple)[:, list(kept)].flatten(1)
        else:
            expected = stored[f"model.{'embed_tokens' if name == 'lm_head' else name}.weight"]
        assert torch.equal(sliced.read(spec), expected), name
        middle = (spec.shape[0] // 3, spec.shape[0] // 2 + 1)
        assert torch.equal(sliced.read(spec, middle), expected[slice(*middle)]), name


def test_per_layer_fields_are_rebuilt(tiny: TinyModel, sliced: Source) -> None:
    config, source = sliced.text, tiny.open().text
    assert config.num_layers == 7 and config.ffn_dims == FFN
    assert config.layer_types == tuple(source.layer_types[i] for i in sliced.plan.kept)
    assert config.sparsity == (0.95, 0.95, 0.0, 0.0, 0.0, 0.0, 0.0)
    assert config.num_kv_shared_layers == 3 and config.num_kv_layers == 4
    assert config.kv_owner(4) == 2 and config.kv_owner(6) == 3


def test_equals_transformers_built_of_the_slice(sliced: Source) -> None:
    ids = [2, *range(100, 160)]
    ours = Reference(sliced).logits(ids).numpy()
    assert relative_error(ours, hf_logits(load_hf(sliced), ids).numpy()) <= EXACT


def test_skipped_layers_are_accounted_for(sliced: Source) -> None:
    ledger = account(sliced)
    assert ledger.dead["model.layers.6.mlp.gate_proj.weight"] == "the slice skips this layer"
    assert "keys" not in ledger.dead["model.layers.1.self_attn.k_proj.weight"]
    assert "model.layers.9.mlp.gate_proj.weight" in ledger.used
    assert len(ledger.used) + len(ledger.dead) == len(sliced.checkpoint.entries)


@pytest.mark.parametrize(
    ("skip", "ffn", "found"),
    [
        ((3,), None, "layer 3 cannot be skipped: the layers from 5 on read its keys and values"),
        ((4,), None, "layer 4 cannot be skipped"),
        ((10,), None, "layer 10 cannot be skipped: the checkpoint has layers 0 to 9"),
        ((), (256,), "multiple of 32 up to its own 128"),
        ((), (40,), "multiple of 32"),
        ((), (0,), "multiple of 32"),
        ((5,), (64, 64), "2 FFN widths were given for the 9 layers"),
    ],
)
def test_refused(tiny: TinyModel, skip: tuple[int, ...], ffn: tuple[int, ...] | None, found: str) -> None:
    with pytest.raises(SliceError, match=found):
        plan_slice(tiny.open().text, skip, ffn)


def test_a_slice_of_everything_is_the_whole(tiny: TinyModel, tmp_path: Path) -> None:
    config = tiny.open().text
    plan = plan_slice(config)
    assert plan.is_whole(config) and plan.apply(config) == config
    assert not Slice(plan.kept, (64,) * 10).is_whole(config)

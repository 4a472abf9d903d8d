"""Names of other savers: each that ``transformers`` takes is read with its values, each wrapper is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from g3n_compiler.checkpoint.tensor_names import natural_key
from g3n_compiler.errors import UnknownTensor
from g3n_compiler.models.gemma3n.saved_names import BUFFERS, naming
from g3n_compiler.nano import checkpoint_dir
from tests.checkpoint.forms import (
    TEXT,
    Tensors,
    assert_same,
    config_of,
    in_transformers,
    opened,
    save,
    tensors_of,
    values,
)
from tests.conftest import TinyModel

MULTIMODAL, TEXT_ONLY = naming({"model_type": "gemma3n"}), naming({"model_type": "gemma3n_text"})
LAYER = "layers.4.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def nano() -> Tensors:
    return tensors_of(checkpoint_dir())


def called(tensors: Tensors, text: str, towers: str = "model.") -> Tensors:
    """The multimodal tensors under other prefixes."""

    def name(old: str) -> str:
        return text + old.removeprefix(TEXT) if old.startswith(TEXT) else towers + old.removeprefix("model.")

    return {name(old): tensor for old, tensor in tensors.items()}


@pytest.mark.parametrize("prefix", [p.text for p in MULTIMODAL.text if p.taken], ids=lambda p: p or "none")
def test_prefixes_of_a_multimodal_model_as_transformers(prefix: str, nano: Tensors, tmp_path: Path) -> None:
    towers = {"language_model.": "", "model.model.language_model.": "model.model."}.get(prefix, "model.")
    assert_same(save(tmp_path / "x", called(nano, prefix, towers), config_of(checkpoint_dir())))


@pytest.mark.parametrize("prefix", [p.text for p in TEXT_ONLY.text if p.taken], ids=lambda p: p or "none")
def test_prefixes_of_a_text_model_as_transformers(prefix: str, tiny: TinyModel, tmp_path: Path) -> None:
    tensors = {prefix + n.removeprefix("model."): t for n, t in tensors_of(tiny.directory).items()}
    assert_same(save(tmp_path / "x", tensors, config_of(tiny.directory)), text=True)


@pytest.mark.parametrize("prefix", [p.text for p in MULTIMODAL.text if not p.taken], ids=lambda p: p or "none")
def test_prefixes_that_transformers_does_not_take_are_read_and_told(prefix: str, nano: Tensors, tmp_path: Path) -> None:
    folder = save(tmp_path / "x", called(nano, prefix, ""), config_of(checkpoint_dir()))
    source, _, said = opened(folder)
    assert "at random" in said
    for name, value in values(source).items():
        stored = nano[TEXT + name] if TEXT + name in nano else nano["model." + name]
        assert torch.equal(value, stored.float())
    source.close()


@pytest.mark.parametrize("prefix", [p.text for p in TEXT_ONLY.text if not p.taken])
def test_what_the_table_calls_not_taken_is_not(prefix: str, tiny: TinyModel, tmp_path: Path) -> None:
    tensors = {prefix + n.removeprefix("model."): t for n, t in tensors_of(tiny.directory).items()}
    folder = save(tmp_path / "x", tensors, config_of(tiny.directory))
    _, missing = in_transformers(folder, text=True)
    assert "model.norm.weight" in missing
    source, _, said = opened(folder)
    assert "at random" in said
    assert torch.equal(source.read_relative("norm.weight"), tensors[prefix + "norm.weight"])


@pytest.mark.parametrize("other", ["language_model.", "model.language_model.model.", "language_model.model.model."])
def test_one_tensor_under_two_names(other: str, nano: Tensors, tmp_path: Path) -> None:
    tensors = nano | {other + LAYER: torch.full_like(nano[TEXT + LAYER], 7)}
    folder = save(tmp_path / "x", tensors, config_of(checkpoint_dir()))
    source, ledger, said = opened(folder)
    theirs, _ = in_transformers(folder)
    assert torch.equal(source.read_relative(LAYER), theirs[LAYER])
    assert "stored twice" in said
    assert len(ledger.left_out) == 1


def test_names_that_transformers_does_not_see_beside_those_it_takes(nano: Tensors, tmp_path: Path) -> None:
    old = "language_model.model." + LAYER
    tensors = nano | {old: torch.full_like(nano[TEXT + LAYER], 7)}
    source, ledger, _ = opened(save(tmp_path / "a", tensors, config_of(checkpoint_dir())))
    assert torch.equal(source.read_relative(LAYER), nano[TEXT + LAYER].float())
    assert set(ledger.left_out) == {old}
    del tensors[TEXT + LAYER]  # transformers would start it at random
    with pytest.raises(UnknownTensor, match=r"layers\.4\.mlp\.up_proj"):
        opened(save(tmp_path / "b", tensors, config_of(checkpoint_dir())))


def test_two_prefixes_that_share_the_tensors(nano: Tensors, tmp_path: Path) -> None:
    halves = {n if i % 2 else n.removeprefix("model."): t for i, (n, t) in enumerate(nano.items())}
    assert_same(save(tmp_path / "x", halves, config_of(checkpoint_dir())))


@pytest.mark.parametrize(
    ("prefix", "saver", "remedy"),
    [
        ("module.", "DDP", "unwrap"),
        ("_orig_mod.", "torch.compile", "_orig_mod"),
        ("_forward_module.", "Lightning", "module.model"),
        ("state_dict.model.", "Lightning", "module.model"),
        ("model._fsdp_wrapped_module.", "FSDP", "get_state_dict"),
        ("base_model.model.", "PEFT", "merge_and_unload"),
        ("module._orig_mod.", "torch.compile", "_orig_mod"),
        ("pretrained_model.", "value head", "pretrained_model"),
        ("strange.", "no known saver", "rename"),
    ],
)
def test_wrappers_are_named(prefix: str, saver: str, remedy: str, tiny: TinyModel, tmp_path: Path) -> None:
    tensors = {prefix + n: t for n, t in tensors_of(tiny.directory).items()}
    with pytest.raises(UnknownTensor, match=saver) as caught:
        opened(save(tmp_path / "x", tensors, config_of(tiny.directory)))
    assert remedy in str(caught.value)
    assert prefix.split(".")[0] in str(caught.value)


@pytest.mark.parametrize("part", ["base_layer", "_checkpoint_wrapped_module", "original_module"])
def test_wrappers_inside_a_name(part: str, tiny: TinyModel, tmp_path: Path) -> None:
    tensors = tensors_of(tiny.directory)
    tensors[f"model.layers.2.mlp.up_proj.{part}.weight"] = tensors.pop("model.layers.2.mlp.up_proj.weight")
    with pytest.raises(UnknownTensor, match=part):
        opened(save(tmp_path / "x", tensors, config_of(tiny.directory)))


def test_buffers_of_older_savers_stop_nothing(tiny: TinyModel, tmp_path: Path) -> None:
    made = {name.rpartition(".")[2] for name, _ in tiny.hf.named_buffers()} - {"weight"}
    assert made <= BUFFERS
    extra = {f"model.layers.0.{name}": torch.zeros(2) for name in BUFFERS}
    extra["model.layers.0.some_counter"] = torch.tensor(3)
    _, ledger, _ = opened(save(tmp_path / "x", tensors_of(tiny.directory) | extra, config_of(tiny.directory)))
    assert extra.keys() <= ledger.dead.keys()


def test_the_order_of_names_is_that_of_transformers() -> None:
    from transformers.core_model_loading import dot_natural_key

    names = ["a.10.b", "a.9.b", "a.b", "lm.x", "model.x", "a.9", "shard_11.a", "shard_2.a", "language_model.layers.3.z"]
    assert sorted(names, key=natural_key) == sorted(names, key=dot_natural_key)


EXTRA = ("v_head.summary.weight", "score.weight", "layers.0.self_attn.q_proj.bias", "layers.99.input_layernorm.weight")


@pytest.mark.parametrize("name", EXTRA)
def test_tensors_that_transformers_does_not_load_are_left_aside_and_named(
    name: str, tiny: TinyModel, tmp_path: Path
) -> None:
    full = f"model.{name}" if name.startswith("layers") else name
    folder = save(tmp_path / "x", tensors_of(tiny.directory) | {full: torch.ones(2)}, config_of(tiny.directory))
    assert_same(folder, text=True)
    _, ledger, said = opened(folder)
    assert full in ledger.left_out and full in said


@pytest.mark.parametrize("text", [True, False])
def test_towers_beside_a_text_config_are_left_aside_as_in_transformers(
    text: bool, nano: Tensors, tmp_path: Path
) -> None:
    tensors = {n.replace(TEXT, "model.") if text else n: t for n, t in nano.items()}
    folder = save(tmp_path / "x", tensors, config_of(checkpoint_dir())["text_config"])
    assert_same(folder, text=True)


@pytest.mark.parametrize("part", ["lora_A.weight", "lora_magnitude_vector.weight"])
def test_an_adapter_that_was_not_merged_is_no_leftover(part: str, tiny: TinyModel, tmp_path: Path) -> None:
    tensors = tensors_of(tiny.directory) | {f"model.layers.0.self_attn.q_proj.{part}": torch.ones(4, 4)}
    with pytest.raises(UnknownTensor, match="PEFT leaves there: merge the adapter first"):
        opened(save(tmp_path / "x", tensors, config_of(tiny.directory)))

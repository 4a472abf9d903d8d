"""Our encoder and embedder equal timm and ``transformers`` in float32, and every tensor is accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from g3n_compiler.checkpoint.reader import SINGLE
from g3n_compiler.errors import UnknownTensor, WrongModel
from g3n_compiler.models.dialect import same_padding
from g3n_compiler.models.gemma3n.soft_tokens import Embedder, embedder_weights
from g3n_compiler.models.gemma3n.tower_config import VISION_ARCHITECTURE, EmbedderConfig, VisionConfig
from g3n_compiler.models.gemma3n.vision_layout import Attention, EdgeResidual, VisionLayout, read_layout
from g3n_compiler.models.gemma3n.vision_weights import encoder_weights
from g3n_compiler.models.weights import LazyWeights
from g3n_compiler.source import Source
from g3n_compiler.tensor_account import account
from tests.vision.conftest import (
    Multimodal,
    encoder_of,
    random_image,
    reference_features,
    relative,
    small_arguments,
    spread,
)

MODALITIES = ("text", "vision")


def config_of(**arguments: Any) -> VisionConfig:
    embedder = EmbedderConfig(2048, 128, 262_144, 1e-6)
    return VisionConfig(embedder, VISION_ARCHITECTURE, json.dumps(arguments), True, 256, 255_999, 262_144, 262_145)


@pytest.mark.parametrize("side", [256, 512, 768])
def test_small_encoder_equals_timm(side: int, multimodal: Multimodal, layout: VisionLayout) -> None:
    tower = multimodal.hf.model.vision_tower.timm_model
    image = random_image(side)
    want = reference_features(tower, image)
    with torch.no_grad():
        got = encoder_of(tower, layout).features(image)
    assert got.shape == (1, 256, 2048) and relative(got, want) < 1e-4


def test_true_architecture_equals_timm() -> None:
    """All 84 blocks, at an eighth of the width: sizes and figures of the full width are in benchmarks/vision.py."""
    torch.manual_seed(0)
    tower = timm.create_model(VISION_ARCHITECTURE, pretrained=False, channel_multiplier=0.125).eval()
    spread(tower)
    layout = read_layout(config_of(channel_multiplier=0.125))
    assert [len(stage) for stage in layout.stages] == [3, 5, 37, 39]
    image = random_image(256)
    want = reference_features(tower, image)
    with torch.no_grad():
        got = encoder_of(tower, layout).features(image)
    assert relative(got, want) < 1e-4


def test_true_layout() -> None:
    layout = read_layout(config_of())
    specs = encoder_weights(layout)
    assert sum(torch.Size(s.shape).numel() for s in specs.values()) == 294_126_912
    linear = sum(torch.Size(s.shape).numel() for s in specs.values() if s.role == "vision")
    assert linear > 0.99 * 294_126_912
    heads = {b.heads for stage in layout.stages for b in stage if isinstance(b, Attention)}
    assert heads == {12, 16} and layout.fused == (2, 3) and isinstance(layout.stages[0][0], EdgeResidual)


def test_embedder_equals_transformers(multimodal: Multimodal) -> None:
    source = multimodal.open()
    assert source.vision is not None
    config, hidden = source.vision.embedder, source.text.hidden_size
    weights = LazyWeights(source.read, embedder_weights(config, "vision", hidden))
    features = torch.randn(1, 256, 2048)
    with torch.no_grad():
        want = multimodal.hf.model.embed_vision(inputs_embeds=features)
        assert relative(Embedder(config, "vision", weights).soft(features), want) < 1e-5


def test_hard_ids_go_through_the_embedder_not_the_text_table(multimodal: Multimodal) -> None:
    """The row of the end of image, and of every other vision id, is ``embed_vision(id)``."""
    source = Source.open(multimodal.directory, modalities=MODALITIES)
    from g3n_compiler.models.embedding_tables import EmbeddingTables

    ids = [4094, 4095, 4096, 4097, 4223, 4224]
    with torch.no_grad():
        embeddings = multimodal.hf.get_input_embeddings()(torch.tensor([ids]))
        through = multimodal.hf.model.embed_vision(input_ids=torch.tensor([ids[2:5]]))
    got = EmbeddingTables(source.text, source.read).embeddings(ids)
    assert relative(got[:, 2:5], through) < 1e-5
    assert torch.equal(got[:, :2], embeddings[:, :2]) and torch.equal(got[:, 5], embeddings[:, 5])
    assert relative(embeddings[:, 2:5], through) > 0.5  # they differ, or nothing was shown


def test_image_ids_look_up_row_0_of_the_per_layer_table(multimodal: Multimodal) -> None:
    from g3n_compiler.models.embedding_tables import EmbeddingTables

    source = multimodal.open()
    tables = EmbeddingTables(source.text, source.read)
    got = tables.ple([4096, 4097, 4223])
    with torch.no_grad():
        want = multimodal.hf.model.language_model.get_per_layer_inputs(torch.tensor([[4096, 4097, 4223]]))
    assert torch.equal(got, want) and torch.equal(got[:, 0], tables.ple([0])[:, 0])


def test_every_tensor_is_used(multimodal: Multimodal) -> None:
    source = Source.open(multimodal.directory, modalities=MODALITIES)
    ledger = account(source)
    assert set(ledger.used) | set(ledger.dead) | set(ledger.left_out) == set(source.checkpoint.entries)
    assert {source.tower_of(n) for n in ledger.left_out} == {"audio"}
    towers = [n for n in source.checkpoint.entries if source.tower_of(n) == "vision"]
    assert len(towers) > 50 and set(towers) <= set(ledger.used)


def change(multimodal: Multimodal, folder: Path, **tensors: torch.Tensor | None) -> Source:
    """The checkpoint with tensors of the vision tower added, changed or (``None``) removed."""
    for path in multimodal.directory.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    content = load_file(folder / SINGLE)
    for name, value in tensors.items():
        full = "model.vision_tower.timm_model." + name.replace("__", ".")
        content.pop(full, None)
        if value is not None:
            content[full] = value
    save_file(content, folder / SINGLE)
    return Source.open(folder, modalities=MODALITIES)


def test_a_stem_without_bias_is_one(multimodal: Multimodal, tmp_path: Path) -> None:
    """Older checkpoints lack it; leaving it out is leaving zeros out."""
    without = change(multimodal, tmp_path, conv_stem__conv__bias=None)
    assert without.vision is not None and not without.vision.stem_bias
    names = account(without).used
    assert "model.vision_tower.timm_model.conv_stem.conv.weight" in names
    assert "model.vision_tower.timm_model.conv_stem.conv.bias" not in names

    tower = multimodal.hf.model.vision_tower.timm_model
    before = tower.conv_stem.conv.bias.detach().clone()
    image = random_image(256)
    try:
        tower.conv_stem.conv.bias.data.zero_()
        want = reference_features(tower, image)
    finally:
        tower.conv_stem.conv.bias.data.copy_(before)
    with torch.no_grad():
        got = encoder_of(tower, read_layout(without.vision)).features(image)
    assert relative(got, want) < 1e-4


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        pytest.param({"blocks__2__1__attn__key__proj__weight": None}, "key.proj", id="missing"),
        pytest.param({"msfa__norm__weight": torch.zeros(3)}, r"shape \[3\]", id="misshapen"),
    ],
)
def test_what_does_not_fit_is_refused(
    tensors: dict[str, torch.Tensor | None], match: str, multimodal: Multimodal, tmp_path: Path
) -> None:
    with pytest.raises(UnknownTensor, match=match):
        account(change(multimodal, tmp_path, **tensors))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        pytest.param({"no_such_argument": 1}, "no_such_argument 1", id="an unknown argument"),
        pytest.param({"channel_multiplier": 1e9}, "channel_multiplier", id="channels without end"),
        pytest.param({"block_args": [[{"block_type": "uir"}] * 1000]}, "256 blocks", id="too many blocks"),
        pytest.param({"block_args": ["er_r999999_k3_s2_e4_c128"]}, "list of 1 to 256 blocks", id="a text that repeats"),
        pytest.param({"block_args": [[{"block_type": "cn"}]]}, "er or uir", id="another kind of block"),
        pytest.param({"block_args": [[{"block_type": "er"}]]}, "cannot build", id="a block without its sizes"),
        pytest.param({"stem_size": float("inf")}, "stem_size inf", id="an infinite width"),
        pytest.param({"msfa_output_resolution": 8}, "64 tokens", id="other soft tokens"),
    ],
)
def test_other_towers_are_refused(arguments: dict[str, Any], match: str) -> None:
    with pytest.raises(WrongModel, match=match):
        read_layout(config_of(**{**small_arguments(), **arguments}))


@pytest.mark.parametrize("side", [0, 224, 300, 384, 1000, 4096, 1_000_000, -256])
def test_resolutions_that_do_not_pool_evenly_are_refused(side: int, layout: VisionLayout) -> None:
    with pytest.raises(WrongModel, match="256, 512, 768"):
        layout.check_resolution(side)


def test_another_architecture_is_refused(multimodal: Multimodal, tmp_path: Path, edit_json: Any) -> None:
    change(multimodal, tmp_path)
    edit_json(tmp_path / "config.json", lambda c: c["vision_config"].update(architecture="resnet50"))
    source = Source.open(tmp_path, modalities=MODALITIES)
    with pytest.raises(WrongModel, match="resnet50"):
        source.vision  # noqa: B018


@pytest.mark.parametrize(
    ("length", "kernel", "stride", "padding"),
    [(8, 3, 1, (1, 1)), (8, 3, 2, (0, 1)), (7, 5, 2, (2, 2)), (8, 5, 2, (1, 2))],
)
def test_same_padding(length: int, kernel: int, stride: int, padding: tuple[int, int]) -> None:
    assert same_padding(length, kernel, stride) == padding


def test_doubling_is_nearest_neighbour() -> None:
    from g3n_compiler.models.gemma3n.vision import _doubled

    x = torch.randn(1, 3, 4, 5)
    want = torch.nn.functional.interpolate(x.permute(0, 3, 1, 2), scale_factor=2, mode="nearest").permute(0, 2, 3, 1)
    assert torch.equal(_doubled(x), want)


def test_norms_read_their_own_weights(layout: VisionLayout) -> None:
    names = [s.tensor for s in encoder_weights(layout).values()]
    assert len(names) == len(set(names))

"""Our audio encoder against ``transformers`` eager float32, and one test for each way to get it wrong."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from g3n_compiler.errors import WrongModel
from g3n_compiler.models.gemma3n import audio
from g3n_compiler.models.gemma3n.audio import AudioEncoder, AudioOps, Clip
from g3n_compiler.models.gemma3n.audio_weights import AudioReader, checkpoint_spec, padding_weight
from g3n_compiler.models.gemma3n.tower_config import load_audio_config
from g3n_compiler.verify.checks import EXACT, relative_error
from tests.audio.conftest import AudioTower, make_audio_tower, random_mel

SHAPES: dict[str, dict[str, Any]] = {
    "true proportions": {},
    "one layer, one head": {"conf_num_hidden_layers": 1, "conf_num_attention_heads": 1},
    "short past": {"conf_attention_context_left": 3, "conf_attention_chunk_size": 5},
    "long past": {"conf_attention_context_left": 20},
    "reduction by two": {"conf_reduction_factor": 2},
    "wide light convolution": {"conf_conv_kernel_size": 9},
    "logits that meet the cap": {"conf_attention_logit_cap": 0.5},
    "40 mel bins": {"input_feat_size": 40},
    "epsilon of its own": {"rms_norm_eps": 1e-2, "sscp_conv_group_norm_eps": 0.1},
    "clipping that bites": {"gradient_clipping": 1.0},
}


def error(actual: Tensor, expected: Tensor) -> float:
    return relative_error(actual[0].detach().numpy(), expected[0].detach().numpy())


@pytest.mark.parametrize("shape", SHAPES)
def test_equals_transformers(shape: str, tmp_path: Path) -> None:
    tower = make_audio_tower(tmp_path, **SHAPES[shape])
    mel, mask = random_mel(331)
    mel = mel[..., : tower.config.mel_bins]
    assert error(tower.encoder().encode(mel, mask), tower.reference(mel, mask)) < EXACT


@pytest.mark.parametrize("seconds", [1, 5, 30])
def test_equals_transformers_at_the_true_width(seconds: int, true_tower: AudioTower) -> None:
    frames = (16000 * seconds - 513) // 160 + 1
    mel, mask = random_mel(frames)
    expected = true_tower.reference(mel, mask)
    assert expected.shape[1] == true_tower.config.soft_tokens(frames)
    assert error(true_tower.encoder().encode(mel, mask), expected) < EXACT
    padded, longer = torch.cat((mel, torch.randn(1, 40, 128)), 1), torch.cat((mask, torch.zeros(1, 40)), 1)
    features = true_tower.encoder().encode(padded, longer)
    assert error(features[:, : expected.shape[1]], expected) < EXACT
    assert not features[:, expected.shape[1] :].any()


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 15, 16, 17, 47, 48, 49, 52])
def test_any_length(frames: int, tower: AudioTower) -> None:
    mel, mask = random_mel(frames)
    assert error(tower.encoder().encode(mel, mask), tower.reference(mel, mask)) < EXACT


def test_a_batch_moves_the_references_own_last_token(tower: AudioTower) -> None:
    """Padding enters the reference's convolutions, so a clip in a batch differs from itself at its last token only."""
    mel, mask = random_mel(97)
    alone = tower.reference(mel, mask)
    padded, longer = torch.cat((mel, torch.zeros(1, 31, 128)), 1), torch.cat((mask, torch.zeros(1, 31)), 1)
    batched = tower.reference(padded, longer)[:, : alone.shape[1]]
    assert error(batched[:, :-1], alone[:, :-1]) < EXACT
    assert error(batched[:, -1:], alone[:, -1:]) > 10 * EXACT
    assert error(tower.encoder().encode(padded, longer)[:, : alone.shape[1]], alone) < EXACT


def test_embedder_equals_transformers(tower: AudioTower) -> None:
    features = torch.randn(1, 9, 64)
    assert error(tower.embed(features), tower.embedder(inputs_embeds=features)) < EXACT
    c = tower.config
    reader, ids = AudioReader(c, tower.read), [c.end_id, c.padding_id, c.embedder.vocab_offset + 5]
    rows = torch.stack([reader.hard_token_row(i) for i in ids]).unsqueeze(0)
    assert error(rows, tower.embedder(input_ids=torch.tensor([ids]))) < EXACT
    assert torch.equal(reader(padding_weight(c)), rows[0, 1])


def test_every_tensor_is_used_and_has_the_stored_shape(tower: AudioTower) -> None:
    assert {s.tensor for s in tower.specs.values()} == set(tower.tensors)
    reader = AudioReader(tower.config, tower.read)
    for spec in tower.specs.values():
        assert tuple(tower.tensors[spec.tensor].shape) == checkpoint_spec(tower.config, spec).shape
        assert tuple(reader(spec).shape) == spec.shape
        assert torch.equal(reader(spec, (1, 2)), reader(spec)[1:2])


def broken_by(tower: AudioTower, change: Callable[[AudioEncoder], None], frames: int = 150) -> float:
    """Relative error to ``transformers`` after ``change`` has spoilt our encoder; sound before."""
    mel, mask = random_mel(frames)
    encoder, expected = tower.encoder(), tower.reference(mel, mask)
    assert error(encoder.encode(mel, mask), expected) < EXACT
    change(encoder)
    return error(encoder.encode(mel, mask), expected)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"past": 11}, id="one frame less in sight"),
        pytest.param({"logit_cap": 1e6}, id="no logit cap"),
        pytest.param({"residual_weight": 1.0}, id="whole feed-forward steps"),
        pytest.param({"group_norm_eps": 1e-1}, id="a larger epsilon"),
    ],
)
def test_config_field_matters(changes: dict[str, Any], tmp_path: Path) -> None:
    tower = make_audio_tower(tmp_path, conf_attention_logit_cap=5.0)

    def change(encoder: AudioEncoder) -> None:
        encoder.config = dataclasses.replace(encoder.config, **changes)
        if "past" in changes:  # the table goes with it
            table = encoder.weights.tensor
            encoder.weights.tensor = lambda n: table(n)[:, 1:] if n.endswith("positions") else table(n)  # type: ignore

    assert broken_by(tower, change) > 5 * EXACT


def test_norms_have_their_own_epsilon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the light convolution's norms and the embedder's take ``rms_norm_eps``."""
    tower = make_audio_tower(tmp_path, rms_norm_eps=1e-2)

    def change(encoder: AudioEncoder) -> None:
        monkeypatch.setattr(AudioEncoder.norm, "__defaults__", (1e-2,))

    assert broken_by(tower, change) > 10 * EXACT


def test_group_norm_is_cumulative(tower: AudioTower, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(self: Clip, name: str, x: Tensor, valid: Tensor, ops: AudioOps) -> tuple[Tensor, Tensor]:
        centred = x - x.mean()
        return centred, (centred * centred).mean().expand(1, x.shape[1], 1, 1)

    assert broken_by(tower, lambda _: monkeypatch.setattr(Clip, "normalize", whole)) > 10 * EXACT


def test_positions_count(tower: AudioTower) -> None:
    def forget(encoder: AudioEncoder) -> None:
        encoder._positions = lambda a, query: torch.zeros(())  # type: ignore[method-assign]

    assert broken_by(tower, forget) > 10 * EXACT


def test_keys_before_the_clip_are_hidden(tower: AudioTower, monkeypatch: pytest.MonkeyPatch) -> None:
    assert broken_by(tower, lambda _: monkeypatch.setattr(audio, "MASKED", 0.0)) > 10 * EXACT


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("conf_attention_context_right", 4),
        ("sscp_conv_kernel_size", [[5, 5], [3, 3]]),
        ("hidden_size", 66),
        ("vocab_size", 100),
        ("conf_reduction_factor", 1),
    ],
)
def test_tower_of_another_kind_is_refused(field: str, value: Any, tmp_path: Path) -> None:
    make_audio_tower(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["audio_config"][field] = value
    with pytest.raises(WrongModel, match=f"audio.*{field}|holds"):
        load_audio_config(config)


def test_model_without_ears() -> None:
    with pytest.raises(WrongModel, match="audio tower"):
        load_audio_config({"model_type": "gemma3n_text"})

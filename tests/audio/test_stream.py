"""The streaming encoder against the whole-clip one: every token, at any length, at constant memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from g3n_compiler.models.gemma3n.audio import AudioOps
from g3n_compiler.models.gemma3n.audio_stream import (
    LOOKAHEAD,
    Cut,
    Stream,
    by_clip,
    by_token,
    empty_state,
    state_shapes,
    step,
)
from g3n_compiler.models.gemma3n.tower_config import AudioConfig
from g3n_compiler.verify.checks import EXACT
from tests.audio.conftest import AudioTower, make_audio_tower, random_mel
from tests.audio.test_encoder import SHAPES, error

CutOf = Callable[[AudioConfig], Cut]


def by_three(config: AudioConfig) -> Cut:
    """As if the longest clip had three soft tokens: many borders in a short sound."""
    return by_clip(dataclasses.replace(config, max_soft_tokens=3))


CUTS = pytest.mark.parametrize("cut_of", [by_token, by_clip, by_three])


def steps(config: AudioConfig, cut: Cut, mel: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The frames and mask of each step."""
    lead = 0
    if cut == by_token(config):
        lead = cut.frames - 1 - LOOKAHEAD
    count = -(-mel.shape[1] // cut.frames)
    padded = torch.zeros(1, lead + (count + 1) * cut.frames, mel.shape[2])
    mask = torch.zeros(1, padded.shape[1])
    padded[:, lead : lead + mel.shape[1]] = mel
    mask[:, lead : lead + mel.shape[1]] = 1
    for k in range(count):
        here = slice(k * cut.frames, (k + 1) * cut.frames)
        yield padded[:, here], mask[:, here]


def streamed(tower: AudioTower, mel: Tensor, cut: Cut) -> Tensor:
    encoder, state, features = tower.encoder(), empty_state(tower.config, cut), []
    with torch.no_grad():
        for frames, mask in steps(tower.config, cut, mel):
            out, state = step(encoder, frames, mask, state, cut)
            features.append(out)
            assert {n: tuple(t.shape) for n, t in state.items()} == state_shapes(tower.config, cut)
    count = tower.config.soft_tokens(mel.shape[1])
    found = torch.cat(features, 1)
    assert not found[:, count:].any()
    return found[:, :count]


@CUTS
@pytest.mark.parametrize("frames", [1, 6, 7, 8, 16, 17, 22, 23, 24, 47, 48, 49, 51, 52, 97, 190, 497])
def test_every_token_equals_the_whole_clips(frames: int, cut_of: CutOf, tower: AudioTower) -> None:
    mel, mask = random_mel(frames)
    expected = tower.encoder().encode(mel, mask)
    got = streamed(tower, mel, cut_of(tower.config))
    assert got.shape == expected.shape
    assert error(got, expected) < EXACT


@CUTS
@pytest.mark.parametrize("shape", SHAPES)
def test_any_shape(shape: str, cut_of: CutOf, tmp_path: Path) -> None:
    tower = make_audio_tower(tmp_path, **SHAPES[shape])
    mel, mask = random_mel(101)
    mel = mel[..., : tower.config.mel_bins]
    assert error(streamed(tower, mel, cut_of(tower.config)), tower.reference(mel, mask)) < EXACT


@CUTS
def test_true_width_against_transformers(cut_of: CutOf, true_tower: AudioTower) -> None:
    mel, mask = random_mel(330)
    assert error(streamed(true_tower, mel, cut_of(true_tower.config)), true_tower.reference(mel, mask)) < EXACT


@pytest.mark.parametrize("cut_of", [by_token, by_clip])
def test_beyond_the_longest_clip(cut_of: CutOf, tower: AudioTower) -> None:
    """Ninety seconds: the first thirty equal the clip of thirty, but for the token that the clip's end cuts short."""
    mel, mask = random_mel(8997)
    got = streamed(tower, mel, cut_of(tower.config))
    assert got.shape[1] == 563
    assert error(got, tower.reference(mel, mask)) < EXACT
    clip = tower.reference(mel[:, :2997], mask[:, :2997])
    assert clip.shape[1] == tower.config.max_soft_tokens
    assert error(got[:, :187], clip[:, :187]) < EXACT
    assert error(got[:, 187:188], clip[:, 187:]) > EXACT


def test_a_token_hears_sixty_milliseconds_ahead_and_no_more(tower: AudioTower) -> None:
    mel, mask = random_mel(200)
    whole = tower.encoder().encode(mel, mask)
    heard = 5 * tower.config.frames_per_token + LOOKAHEAD
    changed = mel.clone()
    changed[:, heard + 1 :] += 3
    assert torch.equal(tower.encoder().encode(changed, mask)[:, :6], whole[:, :6])
    changed[:, heard] += 3
    assert not torch.allclose(tower.encoder().encode(changed, mask)[:, 5], whole[:, 5])


@pytest.mark.parametrize(("cut_of", "at"), [(by_token, 8), (by_three, 2)])
def test_everything_carried_matters(cut_of: CutOf, at: int, tower: AudioTower) -> None:
    mel, mask = random_mel(190)
    expected = tower.encoder().encode(mel, mask)
    cut = cut_of(tower.config)
    inputs = list(steps(tower.config, cut, mel))
    encoder = tower.encoder()
    for name in state_shapes(tower.config, cut):
        state: dict[str, Any] = empty_state(tower.config, cut)
        features = []
        with torch.no_grad():
            for k, (frames, valid) in enumerate(inputs):
                if k == at:
                    state[name] = torch.zeros_like(state[name])
                out, state = step(encoder, frames, valid, state, cut)
                features.append(out)
        assert error(torch.cat(features, 1), expected) > EXACT, name


def test_statistics_keep_their_digits_for_days() -> None:
    """A mean over 46 hours of frames still moves by its share; a sum in float32 would be off by then."""
    count = 2.0**23
    state = {"norm_0": torch.tensor([count, 0.5, 2.0]).view(1, 3, 1, 1)}
    stream = Stream(state)
    stream.normalize("norm_0", torch.full((1, 8, 4, 2), 1.5), torch.ones(1, 8, 1, 1), AudioOps())
    after = stream.after["norm_0"].flatten().tolist()
    assert after[0] == count + 8
    assert after[1] == pytest.approx(0.5 + 8 / count, abs=6e-8)
    assert after[2] == pytest.approx(2.0 - 8 / count, abs=3e-7)

"""Initialisation by data: after it, what the towers say depends on what they see and hear."""

from __future__ import annotations

from random import Random

import numpy as np
import torch
from torch import Tensor, nn

from g3n_compiler.nano import checkpoint_dir
from nano_training import towers
from nano_training.lessons import picture_batch
from nano_training.pictures import DigitSet
from nano_training.senses import Senses
from nano_training.settle import settle


def told_apart(soft: Tensor) -> float:
    """Share of the mean square of ``soft`` (B, N, D) that differs between inputs."""
    return float((soft - soft.mean(0)).square().mean() / soft.square().mean())


def test_towers_tell_inputs_apart_only_after_it() -> None:
    senses = Senses(towers.build(towers.text_weights(checkpoint_dir()), seed=5))
    inner = senses.model.model
    strokes = np.zeros((4, 28, 28), np.uint8)
    strokes[:, 6:22, 12:16] = 255
    pixels = picture_batch(DigitSet(strokes, np.arange(4)), Random(0), 24, 64, (0.4, 0.95), 0.5).pixels
    generator = torch.Generator().manual_seed(0)
    mel = torch.randn(12, 96, 128, generator=generator) - 4
    valid = torch.ones(12, 96, dtype=torch.bool)
    with torch.no_grad():
        before = told_apart(senses.see(pixels)), told_apart(senses.hear(mel, valid)[0])
        counts = (
            settle((inner.vision_tower, inner.embed_vision), lambda: senses.see(pixels)),
            settle((inner.audio_tower, inner.embed_audio), lambda: senses.hear(mel, valid)),
        )
        after = told_apart(senses.see(pixels)), told_apart(senses.hear(mel, valid)[0])
    assert counts[0] > 40 and counts[1] > 30
    assert max(before) < 0.2
    assert min(after) > 0.8


def test_outputs_have_unit_variance_and_little_mean() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GELU(), nn.Conv2d(8, 16, 1, bias=False))
    x = torch.rand(16, 3, 12, 12) * 0.2 + 0.8
    assert settle((layers,), lambda: layers(x), keep=0.0) == 2
    with torch.no_grad():
        y = layers(x).transpose(0, 1).flatten(1)
    assert abs(float(y.var(1).mean()) - 1) < 1e-3
    assert y.mean(1).abs().max() < 1e-3
    assert len(layers._forward_pre_hooks) == len(layers[0]._forward_pre_hooks) == 0

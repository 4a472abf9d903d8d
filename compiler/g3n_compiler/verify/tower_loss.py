"""What a recipe costs the towers: soft tokens of its reference against those of the checkpoint in float32."""

from __future__ import annotations

import numpy as np

from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.source import Source
from g3n_compiler.verify.audio import AudioReference, golden_sound
from g3n_compiler.verify.checks import relative_error
from g3n_compiler.verify.loss import TowerLoss
from g3n_compiler.verify.tower_blocks import StepErrors
from g3n_compiler.verify.vision import VisionReference, golden_image
from g3n_runtime.media.mel import RATE

SECONDS = 5.0
"""Of the sound, if the tower takes as long a clip."""


def measure_towers(source: Source, recipe: Recipe, resolutions: tuple[int, ...]) -> dict[str, TowerLoss]:
    """What is lost in each tower that is compiled, by modality.

    Args:
        resolutions: sides of pictures; the smallest is used.
    """
    towers = [tower for tower in source.towers if tower in source.modalities]
    measure = {"vision": lambda: _vision(source, recipe, min(resolutions)), "audio": lambda: _audio(source, recipe)}
    return {tower: measure[tower]() for tower in towers}


def _vision(source: Source, recipe: Recipe, side: int) -> TowerLoss:
    config, image = source.vision, golden_image(side)
    assert config is not None
    exact, rounded = VisionReference(source.original, config), VisionReference(source, config, recipe)
    found = rounded.errors(image, exact.steps(image), _relative_rms)
    plain = None if source.rewrites is None else VisionReference(source, config).embed(image)
    return _loss(f"a synthetic picture of {side} x {side} pixels", rounded.embed(image), found, plain)


def _audio(source: Source, recipe: Recipe) -> TowerLoss:
    config = source.audio
    assert config is not None
    exact, rounded = AudioReference(source.original, config), AudioReference(source, config, recipe)
    sound = golden_sound(min(SECONDS, exact.longest))
    found = rounded.clip_errors(sound, exact.clip_steps(sound), _relative_rms)
    plain = None if source.rewrites is None else AudioReference(source, config).tokens(sound)
    return _loss(f"a synthetic sound of {len(sound) / RATE:.3g} s", rounded.tokens(sound), found, plain)


def _loss(given: str, rounded: np.ndarray, found: StepErrors, plain: np.ndarray | None) -> TowerLoss:
    """Args:
    found: the errors of the steps, and the exact soft tokens.
    plain: soft tokens of the rewritten weights in float32, if they are rewritten.
    """
    moved = None if plain is None else relative_error(plain, found.result)
    return TowerLoss(given, _relative_rms(rounded, found.result), dict(found.errors), moved)


def _relative_rms(got: np.ndarray, want: np.ndarray) -> float:
    """As :func:`~g3n_compiler.verify.measure_loss.relative_rms`, of arrays."""
    exact = want.astype(np.float64)
    return float(np.linalg.norm(got - exact)) / max(1e-30, float(np.linalg.norm(exact)))

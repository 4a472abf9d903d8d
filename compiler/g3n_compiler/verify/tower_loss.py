"""What a recipe costs the towers: soft tokens of its reference against those of the checkpoint in float32."""

from __future__ import annotations

import numpy as np

from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.source import Source
from g3n_compiler.verify.audio import AudioReference, golden_sound
from g3n_compiler.verify.loss import TowerLoss
from g3n_compiler.verify.tower_blocks import StepErrors
from g3n_compiler.verify.vision import VisionReference, golden_image

SECONDS = 5.0
"""Of the sound."""


def measure_towers(source: Source, recipe: Recipe, resolutions: tuple[int, ...]) -> dict[str, TowerLoss]:
    """What is lost in each tower that is compiled, by modality.

    Args:
        resolutions: sides of pictures; the smallest is used.
    """
    found = {}
    if "vision" in source.modalities and source.vision is not None:
        exact, rounded = (VisionReference(source, source.vision, r) for r in (None, recipe))
        side = min(resolutions)
        image = golden_image(side)
        errors = rounded.errors(image, exact.steps(image), _relative_rms)
        error = _relative_rms(rounded.embed(image), errors.result)
        found["vision"] = _loss(f"a synthetic picture of {side} x {side} pixels", error, errors)
    if "audio" in source.modalities and source.audio is not None:
        heard, noisy = (AudioReference(source, source.audio, r) for r in (None, recipe))
        sound = golden_sound(min(SECONDS, source.audio.max_soft_tokens * 0.16 - 0.08))
        errors = noisy.clip_errors(sound, heard.clip_steps(sound), _relative_rms)
        error = _relative_rms(noisy.tokens(sound), errors.result)
        found["audio"] = _loss(f"a synthetic sound of {len(sound) / 16000:.3g} s", error, errors)
    return found


def _loss(given: str, error: float, errors: StepErrors) -> TowerLoss:
    return TowerLoss(given, error, dict(errors.errors))


def _relative_rms(got: np.ndarray, want: np.ndarray) -> float:
    """As :func:`~g3n_compiler.verify.measure_loss.relative_rms`, of arrays."""
    exact = want.astype(np.float64)
    return float(np.linalg.norm(got - exact)) / max(1e-30, float(np.linalg.norm(exact)))

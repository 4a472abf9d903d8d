"""What the recipe costs, in words, for the terminal and the page."""

from __future__ import annotations

from typing import Any, NamedTuple

WARNING = 0.03
"""Loss of perplexity from which a compile warns: what a reader hardly notices."""
FOREIGN = 100.0
"""Perplexity in float32 from which the texts are said to be foreign to the model."""
NAMED = 3
"""Layers, and matrices, that a warning names."""


class PartError(NamedTuple):
    """A layer or a matrix, and the relative error of its output."""

    name: str
    error: float


def loss_sentence(manifest: dict[str, Any]) -> str | None:
    """What was lost; ``None`` if nothing was rounded, or nobody measured."""
    loss = manifest.get("loss")
    if loss is None:
        return None
    calibration = manifest["provenance"].get("calibration")
    known = calibration is None or (calibration.get("loss") or {}).get("texts_sha256") == loss["texts_sha256"]
    beside = "" if known else ", besides what was lost when it was calibrated"
    return (
        f"{manifest['recipe']['name']} on {loss['tokens']} tokens of {loss['texts']}: perplexity "
        f"{loss['exact_perplexity']:.2f} to {loss['perplexity']:.2f} ({loss['lost']:+.1%}), the same first choice at "
        f"{loss['same_top']:.1%} of them, divergence {loss['kl_divergence']:.2g} nats{beside}"
    )


def part_sentences(manifest: dict[str, Any]) -> list[str]:
    """What each smaller size lost, and each tower."""
    told = []
    for name, loss in (manifest.get("loss") or {}).get("sizes", {}).items():
        perplexity = f"{loss['exact_perplexity']:.2f} to {loss['perplexity']:.2f} ({loss['lost']:+.1%})"
        told.append(f"size {name}: perplexity {perplexity}, divergence {loss['kl_divergence']:.2g} nats")
    for tower, loss in (manifest.get("loss") or {}).get("towers", {}).items():
        named = ", ".join(f"{part.name} ({part.error:.2%})" for part in worst(loss["steps"], 2))
        told.append(f"{tower}: soft tokens of {loss['given']} are off by {loss['error']:.2%}, most in {named}")
    return told


def widths_sentence(manifest: dict[str, Any]) -> str | None:
    """Which weights have a width of their own; ``None`` if all have that of their role."""
    widths = manifest["recipe"]["patterns"]
    if not widths:
        return None
    named = ", ".join(sorted(widths)[:NAMED]) + (", ..." if len(widths) > NAMED else "")
    return f"Widths by weight: {', '.join(sorted(set(widths.values())))} in {len(widths)} matrices ({named})"


def loss_warning(manifest: dict[str, Any]) -> str | None:
    """What a user should know of it, if anything."""
    loss = manifest.get("loss")
    if loss is None:
        return None
    if loss["lost"] > WARNING:
        layers, matrices = (
            ", ".join(f"{p.name} ({p.error:.1%})" for p in worst(loss[k])) for k in ("layers", "matrices")
        )
        return (
            f"{loss['lost']:.1%} of the perplexity is lost, most in {layers}; of the matrices in {matrices}. --quant "
            "int8 or g3n-calibrate lose less; --max-loss makes it an error"
        )
    if loss["exact_perplexity"] > FOREIGN:
        return (
            f"the model itself finds {loss['texts']} hard (perplexity {loss['exact_perplexity']:.0f} in float32), so "
            "they say little about what is lost: pass texts of the kind that it was trained for with --eval"
        )
    return None


def worst(errors: dict[str, float], count: int = NAMED) -> list[PartError]:
    """The parts with the largest errors, the largest first."""
    return [PartError(*item) for item in sorted(errors.items(), key=lambda item: -item[1])[:count]]

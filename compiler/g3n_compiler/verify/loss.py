"""What a recipe costs the model at hand, as figures: its reference against the checkpoint in float32 on held texts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from g3n_compiler.errors import CheckpointError, LossError
from g3n_compiler.verify.checks import EXACT, Check, rounded

FIGURES = ("exact_perplexity", "perplexity", "kl_divergence", "same_top")
SAME = 1e-3
"""How far a perplexity may be from the same one on another machine."""
NAMED = 3
"""Layers, and matrices, that a message names."""


@dataclass(frozen=True)
class TowerLoss:
    """What a recipe costs a tower; errors are as in :class:`Loss`."""

    given: str
    """What the tower was given, in words."""
    error: float
    """Of its soft tokens."""
    steps: Mapping[str, float]
    """Of the output of each block or layer if it alone is rounded."""
    rewritten: float | None = None
    """The largest relative error of its soft tokens that rewriting the weights brings in float32."""


@dataclass(frozen=True)
class SizeLoss:
    """What a recipe costs a smaller size of an elastic bundle; as the same figures of :class:`Loss`."""

    exact_perplexity: float
    perplexity: float
    kl_divergence: float
    same_top: float

    @property
    def lost(self) -> float:
        """Part of the perplexity that is lost, of this size's own in float32."""
        return self.perplexity / self.exact_perplexity - 1


@dataclass(frozen=True)
class Loss:
    """What a recipe costs on some texts; errors of parts are root mean squares, relative to the exact values'."""

    texts: str
    """Where they are from."""
    texts_sha256: str
    tokens: int
    """That were predicted."""
    exact_perplexity: float
    perplexity: float
    kl_divergence: float
    """Mean over the tokens, in nats, of the exact prediction from the recipe's."""
    same_top: float
    """Share of the tokens at which both predict the same."""
    layers: Mapping[str, float]
    """The error of each layer's output if it alone is rounded, and of the head's."""
    matrices: Mapping[str, float]
    """The error of each matrix's output on exact inputs."""
    rewritten: float | None
    """The largest relative error that rewriting the weights brings in float32; ``None`` if they are not rewritten."""
    towers: Mapping[str, TowerLoss] = field(default_factory=dict)
    """What the compiled towers lose, by modality."""
    sizes: Mapping[str, SizeLoss] = field(default_factory=dict)
    """What the smaller sizes of an elastic bundle lose."""

    @property
    def lost(self) -> float:
        """Part of the perplexity that is lost: 0.03 for 3%."""
        return self.perplexity / self.exact_perplexity - 1

    @property
    def worst(self) -> str:
        """The layers and the matrices that lose most, in words."""
        return f"most is lost in {_worst(self.layers)}; of the matrices in {_worst(self.matrices)}"

    @property
    def figures(self) -> SizeLoss:
        """Its figures as those of a size."""
        return SizeLoss(self.exact_perplexity, self.perplexity, self.kl_divergence, self.same_top)

    def require(self, most: float) -> None:
        """Raise unless at most the part ``most`` of the perplexity is lost, of every size.

        Raises:
            LossError: it names the layers that lose most, or the size.
        """
        for name, size in self.sizes.items():
            if not size.lost <= most:
                raise LossError(
                    f"the recipe loses {size.lost:.1%} of the perplexity of the size {name} "
                    f"({size.exact_perplexity:.2f} in float32, {size.perplexity:.2f} rounded, on {self.tokens} tokens "
                    f"of {self.texts}), over --max-loss {100 * most:.4g}%: use --quant int8, or leave the size out"
                )
        if not self.lost <= most:
            allowed = f"{100 * most:.4g}%"
            raise LossError(
                f"the recipe loses {self.lost:.1%} of the perplexity ({self.exact_perplexity:.2f} in float32, "
                f"{self.perplexity:.2f} rounded, on {self.tokens} tokens of {self.texts}), over --max-loss {allowed}: "
                f"{self.worst}. Use --quant int8, calibrate with g3n-calibrate, or allow more with --max-loss"
            )

    @classmethod
    def of_json(cls, fields: Mapping[str, Any]) -> Loss:
        """The inverse of :meth:`as_json`."""
        own = {name: value for name, value in fields.items() if name != "lost"}
        towers = {name: TowerLoss(**loss) for name, loss in own["towers"].items()}
        sizes = {name: SizeLoss(**_without_lost(loss)) for name, loss in own["sizes"].items()}
        return cls(**own | {"towers": towers, "sizes": sizes})

    def of_calibrated(self, record: Mapping[str, Any]) -> Loss:
        """What a calibrated checkpoint loses against the one that it was made from, which ``record`` of its calibration
        has; this has only what is lost besides.

        Raises:
            CheckpointError: the recipe gives other predictions than when it was calibrated.
        """
        off = max(abs(own / then - 1) for own, then in self._perplexities(record))
        if not off <= SAME:
            raise CheckpointError(
                f"the calibrated checkpoint's perplexity is {self.perplexity:.4f} and was {record['perplexity']:.4f} "
                "when it was made: calibrate again with this g3n"
            )
        sizes = {name: SizeLoss(**_without_lost(loss)) for name, loss in record["sizes"].items()}
        figures = {name: record[name] for name in (*FIGURES, "layers")}
        return replace(self, **figures, sizes=sizes)

    def _perplexities(self, record: Mapping[str, Any]) -> Iterator[tuple[float, float]]:
        """Of each size, now and in ``record``."""
        yield self.perplexity, record["perplexity"]
        for name, loss in self.sizes.items():
            yield loss.perplexity, record["sizes"][name]["perplexity"]

    def recorded(self) -> dict[str, Any]:
        """The part of :meth:`as_json` that :meth:`of_calibrated` reads."""
        fields = self.as_json()
        return {name: fields[name] for name in (*FIGURES, "texts", "texts_sha256", "tokens", "layers", "sizes")}

    def check(self) -> list[Check]:
        """The comparisons of the rewritten weights with those of the checkpoint, if they are rewritten."""
        if self.rewritten is None:
            return []
        what, given, reference = "the rewritten weights in float32", "each layer alone", "the checkpoint's own weights"

        def check(subgraph: str, given: str, error: float) -> Check:
            return Check(f"{what}, {given}", subgraph, "eager", reference, "relative error", error, EXACT)

        found = [check("core", f"{given}, {self.tokens} tokens", self.rewritten)]
        for tower, loss in self.towers.items():
            error = math.inf if loss.rewritten is None else loss.rewritten
            found.append(check(f"{tower}_encoder", loss.given, error))
        return found

    def as_json(self) -> dict[str, Any]:
        """Its fields; numbers have the digits that are the same at every run."""
        fields = asdict(self)
        for figures in (fields, *fields["sizes"].values()):
            for name in FIGURES:
                figures[name] = _digits(figures[name], 5)
        for name, size in self.sizes.items():
            fields["sizes"][name]["lost"] = _digits(size.lost, 3)
        for name in ("layers", "matrices"):
            fields[name] = {part: _digits(error, 2) for part, error in fields[name].items()}
        for loss in fields["towers"].values():
            loss["error"] = _digits(loss["error"], 2)
            loss["rewritten"] = None if loss["rewritten"] is None else rounded(loss["rewritten"])
            loss["steps"] = {name: _digits(error, 2) for name, error in loss["steps"].items()}
        fields["rewritten"] = None if self.rewritten is None else rounded(self.rewritten)
        return fields | {"lost": _digits(self.lost, 3)}


def _without_lost(loss: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in loss.items() if name != "lost"}


def _worst(errors: Mapping[str, float]) -> str:
    order = sorted(errors, key=lambda name: -errors[name])[:NAMED]
    return ", ".join(f"{name} ({errors[name]:.1%})" for name in order)


def _digits(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}") if math.isfinite(value) else 1e30

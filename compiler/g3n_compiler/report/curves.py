"""The report's curves: the error of each layer or step, logarithmic, with the limit as a line.

A chart is drawn in its own units, of which a narrow page shows one to a pixel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 10, 12, 30
LEAST, MOST = 1e-9, 10.0
"""Errors outside are drawn at the edge."""
SHORT = 6
"""Names of steps up to this many characters are written at several steps, longer ones at the first and last."""
TICKS = 6


@dataclass(frozen=True)
class Dot:
    """One layer's or step's error."""

    x: float
    y: float
    name: str
    value: float
    over: bool


@dataclass(frozen=True)
class Curve:
    """The errors of one comparison."""

    label: str
    dots: list[Dot]

    @property
    def path(self) -> str:
        return " ".join(f"{dot.x:g},{dot.y:g}" for dot in self.dots)

    @property
    def worst(self) -> Dot:
        return max(self.dots, key=lambda dot: dot.value)


@dataclass(frozen=True)
class Chart:
    """Curves over the same steps of one subgraph under one runtime; ticks are places and what is written there."""

    runtime: str
    subgraph: str
    limit: float
    limit_y: float
    y_ticks: list[tuple[float, str]]
    x_ticks: list[tuple[float, str, str]]
    curves: list[Curve]

    @property
    def over(self) -> list[str]:
        """Names of the steps over the limit."""
        return list(dict.fromkeys(dot.name for curve in self.curves for dot in curve.dots if dot.over))


def charts(manifest: dict[str, Any]) -> list[Chart]:
    """A chart for each runtime, subgraph and list of steps; those of one subgraph are on one scale."""
    found: dict[tuple[str, str, tuple[str, ...]], list[dict[str, Any]]] = {}
    for check in manifest["parity"]["checks"]:
        if check.get("parts"):
            names = tuple(part["name"] for part in check["parts"])
            found.setdefault((check["subgraph"], check["runtime"], names), []).append(check)
    order = list(dict.fromkeys(subgraph for subgraph, _, _ in found))
    made = []
    for subgraph in order:
        own = {key: checks for key, checks in found.items() if key[0] == subgraph}
        low, high = _decades([check for checks in own.values() for check in checks])
        made += [_chart(subgraph, runtime, names, checks, low, high) for (_, runtime, names), checks in own.items()]
    return made


def _chart(
    subgraph: str, runtime: str, names: tuple[str, ...], checks: list[dict[str, Any]], low: int, high: int
) -> Chart:
    def x(i: int) -> float:
        across = WIDTH - LEFT - RIGHT
        return round(LEFT + (across * i / (len(names) - 1) if len(names) > 1 else across / 2), 1)

    def y(value: float) -> float:
        at = (math.log10(min(max(value, LEAST), MOST)) - low) / (high - low)
        return round(HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(at, 0.0), 1.0), 1)

    curves = [
        Curve(
            check["name"],
            [
                Dot(x(i), y(part["value"]), part["name"], part["value"], part["value"] > check["limit"])
                for i, part in enumerate(check["parts"])
            ],
        )
        for check in checks
    ]
    limit = min(check["limit"] for check in checks)
    step = max(1, (high - low) // 4)
    y_ticks = [(y(10.0**e), _power(e)) for e in range(low, high + 1, step)]
    x_ticks = [(x(i), *_anchored(i, len(names), names[i])) for i in _ticked(names)]
    return Chart(runtime, subgraph, limit, y(limit), y_ticks, x_ticks, curves)


def _decades(checks: list[dict[str, Any]]) -> tuple[int, int]:
    """Exponents of ten below and above all errors and limits."""
    values = [part["value"] for check in checks for part in check["parts"]] + [check["limit"] for check in checks]
    inside = [min(max(value, LEAST), MOST) for value in values if value > 0] or [1.0]
    low = math.floor(math.log10(min(inside)))
    return low, max(math.ceil(math.log10(max(inside))), low + 1)


def _ticked(names: tuple[str, ...]) -> list[int]:
    last = len(names) - 1
    if max(len(_short(name)) for name in names) > SHORT:
        return sorted({0, last})
    return sorted({round(last * i / (TICKS - 1)) for i in range(TICKS)})


def _anchored(i: int, count: int, name: str) -> tuple[str, str]:
    """What is written at step ``i`` of ``count``, and at which of its ends it is anchored."""
    anchor = "start" if i == 0 and len(_short(name)) > 1 else "end" if i == count - 1 else "middle"
    return _short(name), anchor


def _short(name: str) -> str:
    number = name.removeprefix("layer ")
    return number if number.isdecimal() else name[:24]


def _power(exponent: int) -> str:
    return f"1e{exponent}" if exponent < -2 else f"{10.0**exponent:g}"

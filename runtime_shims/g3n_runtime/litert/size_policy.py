"""Which size of an elastic bundle to run: the largest that fits the free memory and is fast enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from g3n_runtime.errors import EngineError


@dataclass
class SizePolicy:
    """Chooses among a manifest's ``sizes``, and learns speeds as it goes.

    A size that has not been measured is taken to read its weights as fast as the measured ones did: decoding is bound
    by memory.
    """

    sizes: Sequence[Mapping[str, Any]]
    target_speed: float | None = None
    """Tokens per second that are wanted; any speed will do where not given."""
    measured: dict[str, float] = field(default_factory=dict)
    """Tokens per second of a size, as last seen."""

    def observe(self, size: str, speed: float) -> None:
        """Note that ``size`` was seen to decode ``speed`` tokens per second."""
        self.measured[size] = speed

    def speed(self, name: str) -> float | None:
        """Tokens per second to expect of a size; ``None`` before any was measured."""
        if name in self.measured or not self.measured:
            return self.measured.get(name)
        nbytes = {size["name"]: size["core_bytes"] for size in self.sizes}
        rate = max(speed * nbytes[size] for size, speed in self.measured.items())
        return rate / nbytes[name]

    def choose(self, memory: int) -> str:
        """The largest size whose peak is within ``memory`` bytes and which is fast enough; else the fastest that fits.

        Raises:
            EngineError: not even the smallest fits.
        """
        falling = sorted(self.sizes, key=lambda size: -int(size["core_bytes"]))
        fitting = [size for size in falling if max(size["peak"].values()) <= memory]
        if not fitting:
            least = falling[-1]
            raise EngineError(
                f"no size fits {memory / 1e9:.2f} GB of free memory: the smallest, {least['name']}, takes "
                f"{max(least['peak'].values()) / 1e9:.2f} GB"
            )
        for size in fitting:
            speed = self.speed(size["name"])
            if self.target_speed is None or speed is None or speed >= self.target_speed:
                return str(size["name"])
        return str(fitting[-1]["name"])

"""Call the vision tower of a LiteRT bundle by itself, at any resolution that it was compiled for.

Needs ``ai-edge-litert`` (the interpreter), numpy and pillow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from g3n_runtime.media.image import require_side

ADAPTER = "vision_adapter"


def encoder_name(side: int) -> str:
    """Name of the encoder's signature for images of ``side`` x ``side`` pixels."""
    return f"vision_encoder_{side}"


def encoder_side(name: str) -> int | None:
    """The image side in ``name``; ``None`` if it is no encoder's."""
    digits = name.removeprefix("vision_encoder_")
    return int(digits) if digits != name and digits.isdecimal() else None


class LiteRtVision:
    """The encoder and the adapter, as the engine runs them one after the other.

    Args:
        encoders: the encoder's TFLite file for each image side.
        adapter: the adapter's.
        threads: CPU threads of the XNNPACK delegate.
    """

    def __init__(self, encoders: Mapping[int, Path], adapter: Path, threads: int = 2) -> None:
        self._encoders, self._threads = dict(encoders), threads
        self._open: tuple[int, Interpreter] | None = None
        self._adapter = Interpreter(model_path=str(adapter), num_threads=threads)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Image sides in pixels."""
        return tuple(self._encoders)

    def features(self, image: np.ndarray) -> np.ndarray:
        """Soft tokens before the adapter ``[1, T, width]`` float32 of ``image [S, S, 3]`` float32 in 0..1."""
        side = require_side(image, self._encoders)
        # One encoder at a time: each packs the weights for itself.
        if self._open is None or self._open[0] != side:
            self._open = None
            self._open = side, Interpreter(model_path=str(self._encoders[side]), num_threads=self._threads)
        runner = self._open[1].get_signature_runner(encoder_name(side))
        return runner(images=image[None].astype(np.float32))["features"]

    def embed(self, image: np.ndarray) -> np.ndarray:
        """Soft tokens in the text space, then the end-of-image row ``[T + 1, hidden]`` float32."""
        return self.adapt(self.features(image))

    def adapt(self, features: np.ndarray) -> np.ndarray:
        """:meth:`features` into the text space, and the end-of-image row ``[T + 1, hidden]`` float32."""
        return self._adapter.get_signature_runner(ADAPTER)(features=features)["mm_embedding"][0]

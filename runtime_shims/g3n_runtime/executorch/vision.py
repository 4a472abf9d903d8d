"""The vision tower of an ExecuTorch bundle: soft tokens of a picture, at any size that it was compiled for.

Needs ``executorch`` and numpy only; the program is loaded here and released with this object.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from g3n_runtime.errors import EngineError
from g3n_runtime.executorch.model import require_program
from g3n_runtime.executorch_errors import program_errors
from g3n_runtime.held import HeldFile, address

SIZES, IDS = "get_image_sizes", "get_image_ids"
"""Methods without inputs: image sides; begin, soft token and end of an image."""


def encoder_name(side: int) -> str:
    """Name of the method for images of ``side`` x ``side`` pixels."""
    return f"vision_encoder_{side}"


def blocks_name(side: int) -> str:
    """Name of the method that gives what each block gave, which is there for verification."""
    return f"vision_blocks_{side}"


class ExecuTorchVision:
    """The encoder with its embedder.

    Args:
        path: the program, ``vision.pte``.
    """

    @program_errors()
    def __init__(self, path: Path | HeldFile) -> None:
        self._program, self._file = load(path), path
        self.resolutions = tuple(int(side) for side in self._program.load_method(SIZES).execute([]))
        begin, soft, end = (int(i) for i in self._program.load_method(IDS).execute([]))
        self.ids = begin, soft, end
        self._open: tuple[str, Any] | None = None

    def embed(self, image: np.ndarray) -> np.ndarray:
        """Soft tokens in the text space, then the end-of-image row ``[T + 1, hidden]`` float32.

        Args:
            image: ``[S, S, 3]`` float32 in 0..1.

        Raises:
            EngineError: the tower was not compiled for images of this shape.
        """
        side = image.shape[0]
        if image.shape != (side, side, 3) or side not in self.resolutions:
            sides = ", ".join(str(s) for s in self.resolutions)
            raise EngineError(f"an image of shape {list(image.shape)} was given, the tower takes squares of {sides}")
        return self._run(encoder_name(side), image)[-1][0]

    def steps(self, image: np.ndarray) -> list[np.ndarray]:
        """What the stem and each block gave ``[1, H, W, C]``, the features ``[1, T, width]``, then :meth:`embed`'s."""
        *steps, tokens = self._run(blocks_name(image.shape[0]), image)
        return [*steps, tokens[0]]

    @program_errors()
    def _run(self, name: str, image: np.ndarray) -> list[np.ndarray]:
        # One method at a time: each packs the weights for itself.
        if self._open is None or self._open[0] != name:
            self._open = None
            self._open = name, self._program.load_method(name)
        outputs = self._open[1].execute([torch.from_numpy(image.astype(np.float32))[None]])
        return [output.numpy().copy() for output in outputs]


def load(path: Path | HeldFile) -> Any:
    """The program at ``path``, which stays in memory as long as what is returned."""
    from executorch.runtime import Runtime

    require_program(path)
    try:
        program = Runtime.get().load_program(address(path))
    except (RuntimeError, ValueError) as error:
        raise EngineError(f"ExecuTorch cannot load {path.name}: {error}") from None
    if isinstance(path, HeldFile):
        path.require_unchanged()
    return program

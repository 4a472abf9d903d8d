"""The vision tower of an ExecuTorch bundle: soft tokens of a picture, at any size that it was compiled for.

Needs ``executorch``, numpy and pillow; the program is loaded here and released with this object.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from g3n_runtime.executorch.program import TowerProgram, program_errors
from g3n_runtime.media.image import require_side
from g3n_runtime.open_file import OpenFile

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
        path: of the tower's program.
    """

    @program_errors()
    def __init__(self, path: Path | OpenFile) -> None:
        self._program = TowerProgram(path)
        self.resolutions = tuple(self._program.constant(SIZES))
        begin, soft, end = self._program.constant(IDS)
        self.ids = begin, soft, end

    def embed(self, image: np.ndarray) -> np.ndarray:
        """Soft tokens in the text space, then the end-of-image row ``[T + 1, hidden]`` float32.

        Args:
            image: ``[S, S, 3]`` float32 in 0..1.

        Raises:
            EngineError: the tower was not compiled for images of this shape.
        """
        return self._run(encoder_name(require_side(image, self.resolutions)), image)[-1][0]

    def steps(self, image: np.ndarray) -> list[np.ndarray]:
        """What the stem and each block gave ``[1, H, W, C]``, the features ``[1, T, width]``, then :meth:`embed`'s."""
        *steps, tokens = self._run(blocks_name(image.shape[0]), image)
        return [*steps, tokens[0]]

    def _run(self, name: str, image: np.ndarray) -> list[np.ndarray]:
        return self._program.run(name, [image[None].astype(np.float32)])

"""The audio tower of an ExecuTorch bundle: soft tokens of a clip, or of a stream as it comes.

Needs ``executorch`` and numpy only; the program is loaded here and released with this object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from executorch.runtime import Runtime, Verification

from g3n_runtime.audio import HOP, Step, clip_hops, token_steps
from g3n_runtime.errors import SoundError

ENCODER, STREAM = "audio_encoder", "audio_stream"


class ExecuTorchAudio:
    """Both forms of the encoder.

    Args:
        path: the program with ``audio_encoder`` and ``audio_stream``.
        hidden: width of a soft token; what follows it in the encoder's rows is the runner's.
    """

    def __init__(self, path: Path, hidden: int) -> None:
        self._program: Any = Runtime.get().load_program(path, verification=Verification.Minimal)
        self._hidden = hidden
        self._tokens, self._frames, self._bins = (
            int(self._program.load_method(f"get_audio_{name}").execute([])[0])
            for name in ("soft_tokens", "frames_per_token", "mel_bins")
        )
        self._methods: dict[str, Any] = {}

    def clip(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens ``[N, hidden]`` float32 of ``sound [n]`` at 16 kHz, filled up to the longest clip's.

        Raises:
            SoundError: the sound is shorter than a mel frame or longer than a clip.
        """
        rows = self._method(ENCODER).execute([torch.from_numpy(clip_input(sound, self._tokens * self._frames))])[0]
        return rows[0, :, : self._hidden].numpy()

    def stream(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens ``[N, hidden]`` of a sound of any length, made step by step."""
        return np.stack(list(self.tokens([sound])))

    def tokens(self, sound: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Soft tokens ``[hidden]`` of a sound that comes in pieces ``[n]``, each as soon as it can be."""
        method = self._method(STREAM)
        inputs = range(2, method.metadata.num_inputs())
        state = [torch.zeros(tuple(method.metadata.input_tensor_meta(i).sizes())) for i in inputs]
        for step in token_steps(sound, self._frames, self._bins):
            token, *state = [t.clone() for t in method.execute([*_tensors(step), *state])]
            yield token[0, 0].numpy()

    def _method(self, name: str) -> Any:
        if name not in self._methods:
            self._methods[name] = self._program.load_method(name)
        return self._methods[name]


def clip_input(sound: np.ndarray, longest: int) -> np.ndarray:
    """``sound [n]`` as ``audio_encoder`` takes it: ``[1, longest, 161]`` float32, see the compiler's table."""
    hops = clip_hops(sound)
    if len(hops) > longest:
        raise SoundError(
            f"the sound lasts {len(sound) / (100 * HOP):.1f} s, a clip {longest / 100:.0f} s: cut it, or use the "
            "streaming encoder"
        )
    filled = np.zeros((1, longest, HOP + 1), np.float32)
    filled[0, : len(hops), :HOP] = hops
    filled[0, : len(hops), HOP] = 1
    return filled


def _tensors(step: Step) -> list[torch.Tensor]:
    return [torch.from_numpy(np.ascontiguousarray(step.mel)), torch.from_numpy(np.ascontiguousarray(step.mask))]

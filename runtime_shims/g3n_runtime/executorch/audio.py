"""The audio tower of an ExecuTorch bundle: soft tokens of a clip, or of a stream as it comes.

Needs ``executorch`` and numpy only; the program is loaded here and released with this object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from g3n_runtime.errors import SoundError
from g3n_runtime.executorch.vision import load
from g3n_runtime.executorch_errors import program_errors
from g3n_runtime.held import HeldFile
from g3n_runtime.media.mel import HOP, Step, clip_hops, frame_count, token_steps

CLIP, STREAM, END = "audio_encoder", "audio_stream", "end_of_audio"
LAYERS, STEPS = "audio_layers", "audio_steps"
"""As the first two, with what each layer gave; there for verification."""
TOKENS, FRAMES, BINS = "get_audio_soft_tokens", "get_audio_frames_per_token", "get_audio_mel_bins"
IDS = "get_audio_ids"
"""A method without inputs: begin, soft token and end of a sound."""


class ExecuTorchAudio:
    """Both forms of the encoder.

    Args:
        path: the program, ``audio.pte``.
    """

    @program_errors()
    def __init__(self, path: Path | HeldFile) -> None:
        self._program, self._file = load(path), path
        self._tokens, self._frames, self._bins = (
            int(self._program.load_method(name).execute([])[0]) for name in (TOKENS, FRAMES, BINS)
        )
        begin, soft, end = (int(i) for i in self._program.load_method(IDS).execute([]))
        self.ids = begin, soft, end
        self._open: tuple[str, Any] | None = None

    def __call__(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens ``[N, hidden]`` float32 of ``sound [n]`` at 16 kHz, without the padding."""
        return self.clip(sound)[: -(-frame_count(len(sound)) // self._frames)]

    def clip(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens ``[N, hidden]`` float32 of ``sound [n]`` at 16 kHz, filled up to the longest clip's.

        Raises:
            SoundError: the sound is shorter than a mel frame or longer than a clip.
        """
        return self._run(CLIP, clip_input(sound, self._tokens * self._frames))[0][0]

    def stream(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens ``[N, hidden]`` of a sound of any length, made step by step."""
        return np.stack(list(self.tokens([sound])))

    def tokens(self, sound: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Soft tokens ``[hidden]`` of a sound that comes in pieces ``[n]``, each as soon as it can be.

        Raises:
            SoundError: there is less sound than a mel frame.
        """
        state = self.empty_state()
        for step in token_steps(sound, self._frames, self._bins):
            token, *state = self._run(STREAM, [step.mel, step.mask, *state])
            yield token[0, 0]

    @program_errors()
    def end(self) -> np.ndarray:
        """The end-of-audio row ``[1, hidden]`` float32."""
        return self._program.load_method(END).execute([])[0].numpy().copy()

    def clip_steps(self, sound: np.ndarray) -> list[np.ndarray]:
        """What entered each layer and left the last ``[T, hidden]``, then :meth:`clip`'s tokens."""
        return [out[0] for out in self._run(LAYERS, clip_input(sound, self._tokens * self._frames))]

    def step_layers(self, step: Step, state: list[np.ndarray]) -> list[np.ndarray]:
        """One step: what entered each layer and left the last, the soft token, and the state after it."""
        return self._run(STEPS, [step.mel, step.mask, *state])

    def empty_state(self) -> list[np.ndarray]:
        """The state before a stream's first step."""
        metadata = self._method(STREAM).metadata
        shapes = (tuple(metadata.input_tensor_meta(i).sizes()) for i in range(2, metadata.num_inputs()))
        return [np.zeros(shape, np.float32) for shape in shapes]

    def steps(self, sound: np.ndarray) -> Iterator[Step]:
        """The steps of a stream of ``sound [n]``."""
        return token_steps([sound], self._frames, self._bins)

    @program_errors()
    def _run(self, name: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
        outputs = self._method(name).execute([torch.from_numpy(np.ascontiguousarray(x)) for x in inputs])
        return [output.numpy().copy() for output in outputs]

    def _method(self, name: str) -> Any:
        # One method at a time: each packs the weights for itself.
        if self._open is None or self._open[0] != name:
            self._open = None
            self._open = name, self._program.load_method(name)
        return self._open[1]


def clip_input(sound: np.ndarray, longest: int) -> list[np.ndarray]:
    """``sound [n]`` as ``audio_encoder`` takes it: hops ``[1, longest, 160]``, and 1 for those that it has."""
    hops = clip_hops(sound)
    if len(hops) > longest:
        raise SoundError(
            f"the sound lasts {len(sound) / (100 * HOP):.1f} s, a clip {longest / 100:.0f} s: cut it, or use the "
            "streaming encoder"
        )
    filled = np.zeros((1, longest, HOP), np.float32)
    filled[0, : len(hops)] = hops
    return [filled, (np.arange(longest)[None] < len(hops)).astype(np.float32)]

"""The audio tower of an ExecuTorch bundle: soft tokens of a clip, or of a stream as it comes.

Needs ``executorch`` and numpy only; the program is loaded here and released with this object.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from g3n_runtime.executorch.program import TowerProgram, program_errors
from g3n_runtime.media.mel import Step, clip_input, frame_count, token_steps
from g3n_runtime.open_file import OpenFile

CLIP, STREAM, END = "audio_encoder", "audio_stream", "end_of_audio"
LAYERS, STEPS = "audio_layers", "audio_steps"
"""As the first two, with what each layer gave; there for verification."""
TOKENS, FRAMES, BINS = "get_audio_soft_tokens", "get_audio_frames_per_token", "get_audio_mel_bins"
IDS = "get_audio_ids"
"""A method without inputs: begin, soft token and end of a sound."""


class ExecuTorchAudio:
    """Both forms of the encoder.

    Args:
        path: of the tower's program.
    """

    @program_errors()
    def __init__(self, path: Path | OpenFile) -> None:
        self._program = TowerProgram(path)
        self._tokens, self._frames, self._bins = (self._program.constant(name)[0] for name in (TOKENS, FRAMES, BINS))
        begin, soft, end = self._program.constant(IDS)
        self.ids = begin, soft, end

    def __call__(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens ``[N, hidden]`` float32 of ``sound [n]`` at 16 kHz, without the padding."""
        return self.clip(sound)[: -(-frame_count(len(sound)) // self._frames)]

    def clip(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens ``[N, hidden]`` float32 of ``sound [n]`` at 16 kHz, filled up to the longest clip's.

        Raises:
            SoundError: the sound is shorter than a mel frame or longer than a clip.
        """
        return self._program.run(CLIP, self._clip(sound))[0][0]

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
            token, *state = self._program.run(STREAM, [step.mel, step.mask, *state])
            yield token[0, 0]

    def end(self) -> np.ndarray:
        """The end-of-audio row ``[1, hidden]`` float32."""
        return self._program.run_once(END)[0]

    def clip_steps(self, sound: np.ndarray) -> list[np.ndarray]:
        """What entered each layer and left the last ``[T, hidden]``, then :meth:`clip`'s tokens."""
        return [out[0] for out in self._program.run(LAYERS, self._clip(sound))]

    def step_layers(self, step: Step, state: list[np.ndarray]) -> list[np.ndarray]:
        """One step: what entered each layer and left the last, the soft token, and the state after it."""
        return self._program.run(STEPS, [step.mel, step.mask, *state])

    def empty_state(self) -> list[np.ndarray]:
        """The state before a stream's first step."""
        metadata = self._program.method(STREAM).metadata
        shapes = (tuple(metadata.input_tensor_meta(i).sizes()) for i in range(2, metadata.num_inputs()))
        return [np.zeros(shape, np.float32) for shape in shapes]

    def steps(self, sound: np.ndarray) -> Iterator[Step]:
        """The steps of a stream of ``sound [n]``."""
        return token_steps([sound], self._frames, self._bins)

    def _clip(self, sound: np.ndarray) -> list[np.ndarray]:
        hops, mask = clip_input(sound, self._tokens * self._frames)
        return [hops, mask.astype(np.float32)]

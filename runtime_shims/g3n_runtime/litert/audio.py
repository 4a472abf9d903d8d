"""The audio tower of a LiteRT bundle, called part by part as the stock engine calls it: soft tokens of a sound.

Needs ``ai-edge-litert`` (the interpreter) and numpy only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from g3n_runtime.litert.audio_names import ENDED
from g3n_runtime.media.mel import OVERLAP, Segment, frame_count, segments

State = dict[str, np.ndarray]


class LiteRtAudio:
    """Encoder and adapter. A sound is encoded in stretches of the longest clip's length, each in the same time.

    Args:
        encoder, adapter: the TFLite models.
        threads: CPU threads of the XNNPACK delegate.
    """

    def __init__(self, encoder: Path, adapter: Path, threads: int = 2) -> None:
        self._interpreters = [Interpreter(model_path=str(p), num_threads=threads) for p in (encoder, adapter)]
        self._encode, self._adapt = (i.get_signature_runner() for i in self._interpreters)
        inputs, outputs = self._encode.get_input_details(), self._encode.get_output_details()
        self._hops = int(inputs["segment_mask"]["shape"][1])
        self._tokens = int(outputs["features"]["shape"][1])
        self._empty = {name: np.zeros(d["shape"], d["dtype"]) for name, d in inputs.items() if name in outputs}

    def __call__(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens ``[N, hidden]`` float32 of ``sound [n]`` at 16 kHz, without the padding.

        Raises:
            SoundError: the sound is shorter than a mel frame.
        """
        per_token = (self._hops - OVERLAP) // self._tokens
        return self.padded(sound)[: -(-frame_count(len(sound)) // per_token)]

    def padded(self, sound: np.ndarray) -> np.ndarray:
        """As the engine and the reference give them: a clip is filled up with the padding's embedding to the longest
        clip's number.
        """
        state, found = self.empty_state(), []
        for segment in self.segments(sound):
            features, mask, state = self.encode(segment, state)
            found.append(self.adapt(features, mask)[: np.flatnonzero(mask)[-1] + 1])
        return np.concatenate(found)

    def encode(self, segment: Segment, state: State) -> tuple[np.ndarray, np.ndarray, State]:
        """One call of the encoder -> ``features [1, N, hidden]``, ``mask [1, N]`` bool, and the state after it."""
        out = self._encode(segment_values=segment.values, segment_mask=segment.mask, **state)
        return out["features"], out["mask"], {name: out[name] for name in state}

    def adapt(self, features: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The encoder's outputs into the text space ``[N, hidden]``."""
        return self._adapt(features=features, mask=mask)["mm_embedding"][0]

    def empty_state(self) -> State:
        """The state before the first call."""
        return {n: np.ones_like(x) if n == ENDED else x for n, x in self._empty.items()}

    def segments(self, sound: np.ndarray) -> Iterator[Segment]:
        """What each call takes of ``sound [n]``."""
        return segments(sound, self._hops)


def constant_of(path: Path) -> np.ndarray:
    """The row ``[1, hidden]`` of a model that is a constant (``end_of_audio``)."""
    return Interpreter(model_path=str(path)).get_signature_runner()()["embedding"][0]

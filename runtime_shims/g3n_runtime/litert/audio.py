"""The audio tower of a LiteRT bundle, called part by part: soft tokens of a clip, or of a stream as it comes.

Needs ``ai-edge-litert`` (the interpreter) and numpy only.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from g3n_runtime.bundle import Bundle
from g3n_runtime.errors import EngineError
from g3n_runtime.litert.model_files import ModelFiles
from g3n_runtime.media.mel import AUDIO_STREAM, Step, clip_input, frame_count, token_steps


class LiteRtClipEncoder:
    """Encoder and adapter, as the stock engine runs them: always in the time that the longest clip takes.

    Args:
        encoder, adapter: the TFLite models.
        threads: CPU threads of the XNNPACK delegate.
    """

    def __init__(self, encoder: Path, adapter: Path, threads: int = 2) -> None:
        self._interpreters = [Interpreter(model_path=str(p), num_threads=threads) for p in (encoder, adapter)]
        self._encode, self._adapt = (i.get_signature_runner() for i in self._interpreters)
        self._hops = int(self._encode.get_input_details()["src_inputs"]["shape"][1])

    def __call__(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens ``[N, hidden]`` float32 of ``sound [n]`` at 16 kHz, without the padding.

        Raises:
            SoundError: the sound is shorter than a mel frame or longer than a clip.
        """
        tokens = self.padded(sound)
        return tokens[: -(-frame_count(len(sound)) * len(tokens) // self._hops)]

    def padded(self, sound: np.ndarray) -> np.ndarray:
        """As the engine and the reference give them: filled up with the padding's embedding to the longest clip's."""
        out = self._encode(**self.inputs(sound))
        return self.adapt(out["features"], out["mask"])

    def adapt(self, features: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The encoder's outputs into the text space ``[N, hidden]``."""
        return self._adapt(features=features, mask=mask)["mm_embedding"][0]

    def inputs(self, sound: np.ndarray) -> dict[str, np.ndarray]:
        """``sound [n]`` as the encoder takes it."""
        src_inputs, mask = clip_input(sound, self._hops)
        return {"src_inputs": src_inputs, "mask": mask}


class LiteRtStreamEncoder:
    """One step of the encoder for each soft token, at constant memory however long the sound.

    Args:
        path: the TFLite model of a step.
        threads: CPU threads of the XNNPACK delegate.
    """

    def __init__(self, path: Path, threads: int = 2) -> None:
        self.files: ModelFiles | None = None
        """What must outlive the encoder."""
        self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
        self._step = self._interpreter.get_signature_runner()
        details = self._step.get_input_details()
        self._state = {n: d["shape"] for n, d in details.items() if n.startswith("state_")}
        self.frames_per_token = int(details["mel"]["shape"][1])
        self._bins = int(details["mel"]["shape"][2])
        self.reset()

    def reset(self) -> None:
        """Forget the sound so far."""
        self._now = {name: np.zeros(shape, np.float32) for name, shape in self._state.items()}

    def __call__(self, sound: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Soft tokens ``[hidden]`` float32 of a sound that comes in pieces ``[n]``, each as soon as it can be.

        Raises:
            SoundError: there is less sound than a mel frame.
        """
        self.reset()
        for step in token_steps(sound, self.frames_per_token, self._bins):
            yield self.step(step)

    def steps(self, sound: np.ndarray) -> Iterator[Step]:
        """What each step of ``sound [n]`` takes beside the state."""
        return token_steps([sound], self.frames_per_token, self._bins)

    def step(self, step: Step) -> np.ndarray:
        """The soft token ``[hidden]`` of one step."""
        out = self._step(mel=step.mel, known=step.mask, **self._now)
        token = out.pop("soft_token")[0, 0]
        self._now = out
        return token


def open_stream(bundle: Bundle, threads: int = 2) -> LiteRtStreamEncoder:
    """The streaming encoder of ``bundle``, whose model is copied into the user's cache folder the first time.

    Raises:
        EngineError: the bundle has no audio tower for LiteRT, or there is no room for the copy.
    """
    audio = bundle.manifest["audio"]
    if audio is None or audio["stream"] is None:
        raise EngineError(
            f"{bundle.directory.name} has no streaming audio encoder: compile it with --modalities text,audio"
        )
    for cached in (True, False):
        files = ModelFiles(bundle.open_file("litertlm"), {AUDIO_STREAM: audio["stream"]}, cached)
        try:
            encoder = LiteRtStreamEncoder(files.paths[AUDIO_STREAM], threads)
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError(f"LiteRT does not load the streaming encoder ({error}): copy the bundle again") from None
        encoder.files = files
        if files.settle():
            return encoder
    raise EngineError(f"{bundle.directory.name} was changed while it was loaded: start again")


def constant_of(path: Path) -> np.ndarray:
    """The row ``[1, hidden]`` of a model that is a constant (``end_of_audio``)."""
    return Interpreter(model_path=str(path)).get_signature_runner()()["embedding"][0]

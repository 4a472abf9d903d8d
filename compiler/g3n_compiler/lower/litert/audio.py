"""The audio tower as TFLite models for the stock LiteRT-LM engine and for :mod:`g3n_runtime.litert.audio`.

=================== =========================================================== ======================================
``audio_encoder``   ``segment_mask``, ``segment_values [1, T, 160]``,           a stretch of sound as long as the
                    ``prev_mask``, states -> ``features``, ``mask``,            longest clip, including the log-mel
                    ``prev_mask``, states                                       front end
``audio_adapter``   ``mask``, ``features`` -> ``mm_embedding``                  projects into the text model's space
``end_of_audio``    -> ``embedding [1, 1, hidden]``                             the row of the end-of-audio token
=================== =========================================================== ======================================
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from g3n_compiler.lower.artifact import Delegation
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.lower.litert.container import extract
from g3n_compiler.lower.litert.delegation import measure
from g3n_compiler.lower.litert.section import TowerSection
from g3n_compiler.lower.litert.text import convert_modules
from g3n_compiler.lower.litert.tower_blocks import partial_copy, run_stream
from g3n_compiler.lower.opened import StreamTrace
from g3n_compiler.lower.signatures.audio import ADAPT, ENCODE, Adapt, AudioSignature, Encode
from g3n_compiler.models.gemma3n.audio_weights import AudioReader
from g3n_compiler.models.gemma3n.tower_config import AudioConfig
from g3n_compiler.models.weights import Read
from g3n_compiler.quantize.recipe import Recipe
from g3n_runtime.litert.audio import LiteRtAudio, constant_of

END = "end_of_audio"


@dataclass(frozen=True)
class AudioFiles:
    """The files that :func:`write_audio` wrote."""

    encoder: Path
    adapter: Path
    end: Path
    delegation: Delegation
    """Of the encoder."""


def lower_audio(job: Job, config: AudioConfig, folder: Path) -> list[TowerSection]:
    """Convert, quantise and bind the whole tower into ``folder``."""
    job.progress("litert: converting the audio tower")
    return tower_sections(write_audio(convert_audio(config), config, job.recipe, job.source.read, folder))


def tower_sections(made: AudioFiles) -> list[TowerSection]:
    """The files that :func:`write_audio` wrote, as sections."""
    return [
        TowerSection("audio_encoder", "audio_encoder_hw", made.encoder, (ENCODE,), made.delegation),
        TowerSection("audio_adapter", "audio_adapter", made.adapter, (ADAPT,), measure(made.adapter)),
        TowerSection("end_of_audio", "end_of_audio", made.end, (END,), None),
    ]


class OpenedAudio:
    """The tower of a finished ``.litertlm``, copied out so that the interpreter can map it; see ``AudioModel``."""

    def __init__(self, path: Path) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".audio-")
        folder = Path(self._scratch.name)
        kinds = ("audio_encoder_hw", "audio_adapter", "end_of_audio")
        encoder, adapter, end = (folder / f"{kind}.tflite" for kind in kinds)
        for kind, part in zip(kinds, (encoder, adapter, end), strict=True):
            extract(path, kind, part)
        self._audio = LiteRtAudio(encoder, adapter)
        self._end, self._path = end, path

    def clip(self, sound: np.ndarray) -> np.ndarray:
        return self._audio.padded(sound)

    def stream(self, sound: np.ndarray) -> np.ndarray:
        return self._audio.padded(sound)

    def clip_steps(self, sound: np.ndarray) -> Iterator[np.ndarray]:
        with partial_copy(self._path, "audio_encoder_hw") as model:
            ((trace, features),) = run_stream(model, ENCODE, self._audio, sound)
        # A call's first frame is one from before it.
        yield from (np.roll(frames[0], -1, 0) for frames in trace.frames)
        yield features[0]
        yield trace.tokens

    def stream_steps(self, sound: np.ndarray) -> Iterator[StreamTrace]:
        with partial_copy(self._path, "audio_encoder_hw") as model:
            yield from (trace for trace, _ in run_stream(model, ENCODE, self._audio, sound))

    def end(self) -> np.ndarray:
        return constant_of(self._end)


def convert_audio(config: AudioConfig) -> dict[str, bytes]:
    """The graphs, with their weights still inputs: ``audio_encode`` and ``audio_adapt``."""
    modules: dict[str, AudioSignature] = {ENCODE: Encode(config, layer_outputs=True), ADAPT: Adapt(config)}
    return {name: convert_modules({name: (module, module.trace_inputs())}) for name, module in modules.items()}


def write_audio(
    graphs: Mapping[str, bytes], config: AudioConfig, recipe: Recipe, read: Read, folder: Path
) -> AudioFiles:
    """Bind the weights to the graphs of :func:`convert_audio`; the same arguments give the same bytes."""
    reader = AudioReader(config, read)
    parts = {name: folder / f"{name}.tflite" for name in (ENCODE, ADAPT, END)}
    bind(graphs[ENCODE], Encode(config).specs, recipe, reader, parts[ENCODE])
    bind(graphs[ADAPT], Adapt(config).specs, recipe, reader, parts[ADAPT])
    write_constant(parts[END], END, reader.hard_token_row(config.end_id).view(1, 1, -1).numpy())
    return AudioFiles(parts[ENCODE], parts[ADAPT], parts[END], measure(parts[ENCODE]))


def write_constant(path: Path, signature: str, value: np.ndarray) -> None:
    """Write a model without inputs whose only output, ``embedding``, is ``value`` as float32."""
    constant = schema.BufferT(data=np.frombuffer(value.astype(np.float32).tobytes(), np.uint8))
    shape = np.array(value.shape, np.int32)
    tensor = schema.TensorT(name="embedding", shape=shape, type=schema.TensorType.FLOAT32, buffer=1, hasRank=True)
    subgraph = schema.SubGraphT(
        name=signature, tensors=[tensor], inputs=[], outputs=np.array([0], np.int32), operators=[]
    )
    output = schema.TensorMapT(name="embedding", tensorIndex=0)
    definition = schema.SignatureDefT(signatureKey=signature, subgraphIndex=0, inputs=[], outputs=[output])
    model = schema.ModelT(
        version=3,
        description="g3n constant",
        operatorCodes=[],
        buffers=[schema.BufferT(), constant],
        subgraphs=[subgraph],
        signatureDefs=[definition],
    )
    path.write_bytes(flatbuffer.pack(model))

"""The audio tower as TFLite models for the stock LiteRT-LM engine and for :mod:`g3n_runtime.litert.audio`.

=================== =========================================================== ======================================
``audio_encoder``   ``mask [1, T]``, ``src_inputs [1, T, 160]`` -> ``features`` a whole clip, including the log-mel
                                                                                front end
``audio_stream``    ``mel``, ``known``, state -> ``soft_token``, state          160 ms per step, with the encoder's
                                                                                weights
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
from g3n_compiler.lower.litert.file_headers import write_file_headers
from g3n_compiler.lower.litert.section import TowerSection
from g3n_compiler.lower.litert.text import convert_modules
from g3n_compiler.lower.litert.tower_blocks import partial_copy, run_blocks, run_stream
from g3n_compiler.lower.opened import StreamTrace
from g3n_compiler.lower.signatures.audio import ADAPT, ENCODE, STREAM, Adapt, AudioSignature, Encode, StreamStep
from g3n_compiler.models.gemma3n.audio_weights import AudioReader
from g3n_compiler.models.gemma3n.tower_config import AudioConfig
from g3n_compiler.models.weights import Read
from g3n_compiler.quantize.recipe import Recipe
from g3n_runtime.litert.audio import LiteRtClipEncoder, LiteRtStreamEncoder, constant_of

END = "end_of_audio"


@dataclass(frozen=True)
class AudioFiles:
    """The files that :func:`write_audio` wrote."""

    encoder: Path
    """The encoder; from byte ``stream_begin`` on it is the model of one streaming step, over the same weights."""
    stream_begin: int
    adapter: Path
    end: Path
    delegation: Delegation
    """Of both encoder signatures together."""


def lower_audio(job: Job, config: AudioConfig, folder: Path) -> list[TowerSection]:
    """Convert, quantise and bind the whole tower into ``folder``."""
    job.progress("litert: converting the audio tower")
    return tower_sections(write_audio(convert_audio(config), config, job.recipe, job.source.read, folder))


def tower_sections(made: AudioFiles) -> list[TowerSection]:
    """The files that :func:`write_audio` wrote, as sections."""
    views = {STREAM: made.stream_begin}
    return [
        TowerSection("audio_encoder", "audio_encoder_hw", made.encoder, (ENCODE, STREAM), made.delegation, views),
        TowerSection("audio_adapter", "audio_adapter", made.adapter, (ADAPT,), measure(made.adapter)),
        TowerSection("end_of_audio", "end_of_audio", made.end, (END,), None),
    ]


class OpenedAudio:
    """The tower of a finished ``.litertlm``, copied out so that the interpreter can map it; see ``AudioModel``."""

    def __init__(self, path: Path) -> None:
        self._scratch = tempfile.TemporaryDirectory(dir=path.parent, prefix=".audio-")
        folder = Path(self._scratch.name)
        kinds = ("audio_encoder_hw", "audio_adapter", "end_of_audio", STREAM)
        encoder, adapter, end, stream = (folder / f"{kind}.tflite" for kind in kinds)
        for kind, part in zip(kinds, (encoder, adapter, end, stream), strict=True):
            extract(path, kind, part)
        self._clip, self._stream = LiteRtClipEncoder(encoder, adapter), LiteRtStreamEncoder(stream)
        self._end, self._path = end, path

    def clip(self, sound: np.ndarray) -> np.ndarray:
        return self._clip.padded(sound)

    def stream(self, sound: np.ndarray) -> np.ndarray:
        return np.stack(list(self._stream([sound])))

    def clip_steps(self, sound: np.ndarray) -> Iterator[np.ndarray]:
        inputs = self._clip.inputs(sound)
        with partial_copy(self._path, "audio_encoder_hw") as model:
            *steps, last = run_blocks(model, ENCODE, inputs, ("features", "mask"))
            yield from (step[0] for step in steps)
            yield last["features"][0]
        yield self._clip.adapt(last["features"], last["mask"])

    def stream_steps(self, sound: np.ndarray) -> Iterator[StreamTrace]:
        with partial_copy(self._path, STREAM) as model:
            yield from run_stream(model, STREAM, list(self._stream.steps(sound)))

    def end(self) -> np.ndarray:
        return constant_of(self._end)


def convert_audio(config: AudioConfig) -> dict[str, bytes]:
    """The graphs, with their weights still inputs: the encoder with ``audio_stream``, and ``audio_adapt``."""
    encoder = _convert({ENCODE: Encode(config, layer_outputs=True), STREAM: StreamStep(config, layer_outputs=True)})
    return {ENCODE: encoder, ADAPT: _convert({ADAPT: Adapt(config)})}


def write_audio(
    graphs: Mapping[str, bytes], config: AudioConfig, recipe: Recipe, read: Read, folder: Path
) -> AudioFiles:
    """Bind the weights to the graphs of :func:`convert_audio`; the same arguments give the same bytes."""
    reader = AudioReader(config, read)
    parts = {name: folder / f"{name}.tflite" for name in (ENCODE, ADAPT, END)}
    specs = StreamStep(config).specs
    bind(graphs[ENCODE], specs, recipe, reader, parts[ENCODE], signature_groups=((ENCODE,), (STREAM,)))
    delegation = measure(parts[ENCODE])
    _, stream = write_file_headers(parts[ENCODE], ((ENCODE,), (STREAM,)))
    bind(graphs[ADAPT], Adapt(config).specs, recipe, reader, parts[ADAPT])
    write_constant(parts[END], END, reader.hard_token_row(config.end_id).view(1, 1, -1).numpy())
    return AudioFiles(parts[ENCODE], stream, parts[ADAPT], parts[END], delegation)


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


def _convert(modules: Mapping[str, AudioSignature]) -> bytes:
    return convert_modules({name: (module, module.trace_inputs()) for name, module in modules.items()})

"""The audio tower alone, from sound to soft tokens: ``transformers``, onnxruntime and each runtime's artifact compared
with our eager reference.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from g3n_compiler.heap import release_free_memory
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.opened import AudioModel, OpenAudio, StreamTrace
from g3n_compiler.lower.signatures.audio import Adapt, AudioSignature, Encode, state_names
from g3n_compiler.lower.subgraphs import Runtime
from g3n_compiler.models.gemma3n.audio import AudioEncoder
from g3n_compiler.models.gemma3n.audio_weights import TOWER, AudioReader, audio_embedder_weights, audio_weights
from g3n_compiler.models.gemma3n.soft_tokens import Embedder
from g3n_compiler.models.gemma3n.tower_config import AudioConfig, audio_reference
from g3n_compiler.models.gemma3n.transformers_model import load_hf_embedder
from g3n_compiler.models.weights import LazyWeights, TensorWeights, Weights
from g3n_compiler.quantize.fake import FakeQuantWeights
from g3n_compiler.quantize.recipe import Recipe
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import EXACT, SAME, Check, relative_error
from g3n_compiler.verify.onnx.export import OnnxSession, export_onnx
from g3n_compiler.verify.tower_blocks import ClipSteps, Measure, StepErrors, clip_errors, step_checks, stream_errors
from g3n_runtime.litert.audio_names import ENDED, OVERLAPPED
from g3n_runtime.media.mel import HOP, OVERLAP, RATE, LogMel, segments

SMALL_PARAMETERS = 100_000_000
"""Towers up to this size are held whole in float32, and compared with ``transformers`` in every compile."""
CLIPS = (1.0, 5.0, 30.0)
"""Lengths in seconds of the golden sounds."""
SHORT_OF = 0.08
"""Seconds by which the longest of them is shorter than the longest clip."""
LONGER = 1.1
"""Length of the streamed sound, relative to the longest clip."""
HELD_STEPS = 12
"""How many first steps of a quantised tower's stream are compared: enough to fill every state."""
NEXT = "next_"
"""Outputs need names that differ from the inputs they replace."""


def golden_sound(seconds: float) -> np.ndarray:
    """A voice-like sound ``[n]`` float32 at 16 kHz, the same in every run: a gliding buzz with pauses, and noise."""
    at = np.arange(int(seconds * RATE)) / RATE
    pitch = np.cumsum(120 + 40 * np.sin(2 * np.pi * 0.7 * at)) / RATE
    buzz = sum(np.sin(2 * np.pi * k * pitch) / k for k in range(1, 20))
    envelope = np.clip(np.sin(2 * np.pi * 1.3 * at), 0, None) ** 0.5
    noise = np.random.default_rng(0).standard_normal(len(at))
    return (0.15 * buzz * envelope + 0.01 * noise).astype(np.float32)


class AudioReference:
    """The tower in eager PyTorch, over exact (``recipe=None``) or fake-quantised weights."""

    def __init__(self, source: Source, config: AudioConfig, recipe: Recipe | None = None) -> None:
        specs, reader = audio_weights(config) | audio_embedder_weights(config), AudioReader(config, source.read)
        keep = is_small(config)
        weights: Weights
        if recipe is not None:
            weights = FakeQuantWeights(reader, specs, recipe, keep)
        elif keep:
            weights = TensorWeights({name: reader(s) for name, s in specs.items()})
        else:
            weights = LazyWeights(reader, specs)
        self.config, self.reader = config, reader
        self._encoder = AudioEncoder(config, weights)
        self._embedder = Embedder(config.embedder, "audio", weights)

    @property
    def longest(self) -> float:
        """Seconds of a clip that the tower takes whole, less some milliseconds."""
        return self.config.max_soft_tokens * self.config.frames_per_token * HOP / RATE - SHORT_OF

    @torch.no_grad()
    def tokens(self, sound: np.ndarray) -> np.ndarray:
        """Soft tokens ``[N, hidden]`` float32 of ``sound [n]``, of any length."""
        mel = torch.from_numpy(LogMel(self.config.mel_bins).clip(sound))[None]
        features = self._encoder.encode(mel, torch.ones(mel.shape[:2]))
        return self._embedder.soft(features)[0].numpy()

    def clip_errors(
        self, sound: np.ndarray, steps: Iterable[np.ndarray], measure: Measure = relative_error, limit: float = math.inf
    ) -> StepErrors:
        """The error of each of an artifact's ``steps`` over a clip."""
        found = StepErrors(measure, limit)
        clip_errors(self._encoder, self._embedder.soft, LogMel(self.config.mel_bins).clip(sound), steps, found)
        return found

    @torch.no_grad()
    def clip_steps(self, sound: np.ndarray) -> Iterator[np.ndarray]:
        """Frames before the layers and after each one, features, soft tokens ``[N, ...]`` of a clip."""
        clip = ClipSteps(self._encoder, LogMel(self.config.mel_bins).clip(sound))
        x = clip.front
        yield x[0].numpy()
        for i in range(self.config.num_layers):
            x = clip.layer(i, x)
            yield x[0].numpy()
        yield self._embedder.soft(x[:, : clip.tokens])[0].numpy()

    def stream_errors(self, traces: Iterable[StreamTrace]) -> StepErrors:
        """The same for the steps of a stream."""
        return stream_errors(self._encoder, self._embedder.soft, traces)

    def clip(self, sound: np.ndarray) -> np.ndarray:
        """As :meth:`tokens`, padded to the longest clip's number as in ``transformers``."""
        tokens = self.tokens(sound)
        padding = self.reader.hard_token_row(self.config.padding_id).numpy()
        return np.concatenate((tokens, np.tile(padding, (self.config.max_soft_tokens - len(tokens), 1))))


def is_small(config: AudioConfig) -> bool:
    return sum(torch.Size(s.shape).numel() for s in audio_weights(config).values()) <= SMALL_PARAMETERS


def audio_checks(job: Job, config: AudioConfig, models: Mapping[Runtime, OpenAudio]) -> list[Check]:
    """Every comparison of the tower: clips of several lengths, a stream longer than any clip, and the end row.

    Each of ``models`` is opened when its turn comes and closed before the next, so that no two are in memory.
    """
    exact = AudioReference(job.source, config)
    rounded = exact if job.recipe.name == "fp32" else AudioReference(job.source, config, job.recipe)
    clips = {f"clip of {s:g} s": golden_sound(s) for s in dict.fromkeys(min(c, exact.longest) for c in CLIPS)}
    streamed = golden_sound((exact.longest + SHORT_OF) * LONGER)
    stream = f"stream of {len(streamed) / RATE:.1f} s"
    checks: list[Check] = []
    want = {name: exact.clip(sound) for name, sound in clips.items()}
    if is_small(config):
        hf = load_hf_audio(job.source.original, config)
        checks += [_check(n, "eager", "transformers fp32", want[n], hf(s), EXACT) for n, s in clips.items()]
    shortest = next(iter(clips))
    onnx = OnnxAudio(job.source, config)
    checks.append(_check(shortest, "onnxruntime", "eager fp32", onnx(clips[shortest]), want[shortest], EXACT))
    checks.append(_check(stream, "onnxruntime", "eager fp32", onnx(streamed), exact.tokens(streamed), EXACT))
    del onnx
    release_free_memory()
    end = exact.reader.hard_token_row(config.end_id).view(1, -1).numpy()
    for runtime, open_model in models.items():
        job.progress(f"comparing the {runtime} audio tower")
        model = open_model()
        if model is None or rounded is exact:
            compare = functools.partial(_check, runtime=runtime, reference="eager fp32", limit=EXACT)
            for n, sound in clips.items():
                checks.append(compare(n, got=_run(None if model is None else model.clip, sound), want=want[n]))
            got = _run(None if model is None else model.stream, streamed)
            checks.append(compare(stream, got=got, want=exact.tokens(streamed)))
        else:
            checks += _step_checks(job, rounded, runtime, model, clips, streamed)
        error = relative_error(np.empty(0) if model is None else model.end(), end)
        checks.append(Check("end of audio", "end_of_audio", runtime, "eager fp32", "relative error", error, EXACT))
        del model
        release_free_memory()
    return checks


def _step_checks(
    job: Job,
    rounded: AudioReference,
    runtime: Runtime,
    model: AudioModel,
    clips: Mapping[str, np.ndarray],
    streamed: np.ndarray,
) -> Iterator[Check]:
    """For a quantised tower: check each step by itself, and check that the whole graphs give the same results."""
    same = functools.partial(_check, runtime=runtime, reference="its own steps", limit=SAME)
    for name, sound in clips.items():
        errors = rounded.clip_errors(sound, model.clip_steps(sound), limit=job.recipe.layer_tolerance)
        yield from step_checks(job, "audio_encoder", runtime, name, errors)
        yield same(name, got=model.clip(sound), want=errors.result)
    traces = list(model.stream_steps(streamed))
    # Later steps differ only in their numbers, because the state has reached its full length.
    held = traces if len(traces) <= HELD_STEPS else [*traces[:HELD_STEPS], *traces[-2:]]
    found = rounded.stream_errors(held)
    yield from step_checks(job, "audio_encoder", runtime, f"stream, {len(held)} steps", found)
    tokens = np.concatenate([trace.tokens for trace in traces])
    yield same(f"stream of {len(streamed) / RATE:.1f} s", got=model.stream(streamed), want=tokens)


def load_hf_audio(source: Source, config: AudioConfig) -> Callable[[np.ndarray], np.ndarray]:
    """The function ``clip`` from ``transformers``: its feature extractor, tower and embedder, read by our reader."""
    from transformers import Gemma3nAudioConfig, Gemma3nAudioFeatureExtractor
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nAudioEncoder

    tower = Gemma3nAudioEncoder(Gemma3nAudioConfig(**audio_reference(source.checkpoint.config))).float().eval()
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            parameter.copy_(source.read_relative(f"{TOWER}{name}"))
    embedder = load_hf_embedder(source, "audio", config.embedder)
    extract = Gemma3nAudioFeatureExtractor(feature_size=config.mel_bins)

    @torch.no_grad()
    def clip(sound: np.ndarray) -> np.ndarray:
        inputs = extract([sound], return_tensors="pt")
        out = tower(inputs.input_features, ~inputs.input_features_mask.bool(), return_dict=True).last_hidden_state
        soft, padding = embedder(inputs_embeds=out)[0], embedder(input_ids=torch.tensor([[config.padding_id]]))[0]
        return torch.cat((soft, padding.expand(config.max_soft_tokens - len(soft), -1))).numpy()

    return clip


class OnnxAudio:
    """The two graphs of LiteRT's tower in onnxruntime, with float32 weights as inputs."""

    def __init__(self, source: Source, config: AudioConfig) -> None:
        self._states = (ENDED, OVERLAPPED, *state_names(config).values())
        encode, outputs = Encode(config), ("features", "out_mask", *(f"{NEXT}{n}" for n in self._states))
        self._empty = {n: x.numpy() for n, x in encode.sample_inputs().items() if n in self._states}
        self._hops = encode.cut.frames + OVERLAP
        self._encode = _OnnxSignature(source, config, encode, outputs)
        self._adapt = _OnnxSignature(source, config, Adapt(config), ("mm_embedding",))

    def __call__(self, sound: np.ndarray) -> np.ndarray:
        """As :meth:`AudioReference.clip`, or without padding where ``sound [n]`` is longer than a clip."""
        state, found = self._empty, []
        for segment in segments(sound, self._hops):
            out = self._encode({"segment_values": segment.values, "segment_mask": segment.mask, **state})
            soft = self._adapt({"mask": out["out_mask"], "features": out["features"]})["mm_embedding"][0]
            found.append(soft[out["out_mask"][0]])
            state = {name: out[NEXT + name] for name in state}
        return np.concatenate(found)


class _OnnxSignature:
    """One signature in onnxruntime; its weights are read once."""

    def __init__(self, source: Source, config: AudioConfig, module: AudioSignature, outputs: Sequence[str]) -> None:
        reader = AudioReader(config, source.read)
        self._weights = {s.input_name: reader(s).numpy() for s in module.specs.values()}
        self._session = OnnxSession(export_onnx(module.eval(), module.trace_inputs(), outputs))

    def __call__(self, inputs: dict[str, Any]) -> dict[str, np.ndarray]:
        return self._session(inputs | self._weights)


def _run(encode: Callable[[np.ndarray], np.ndarray] | None, sound: np.ndarray) -> np.ndarray:
    return np.empty(0) if encode is None else encode(sound)


def _check(what: str, runtime: str, reference: str, got: np.ndarray, want: np.ndarray, limit: float) -> Check:
    name = f"{what}, {len(want)} soft tokens"
    return Check(name, "audio_encoder", runtime, reference, "relative error", relative_error(got, want), limit)

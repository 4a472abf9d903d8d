"""The audio tower at its true size (681 million parameters, random weights): parity, delegation, memory, speed.

    python benchmarks/audio.py FOLDER compile     # writes a random tower, at the next call its TFLite models
    python benchmarks/audio.py FOLDER compile --runtime executorch
    python benchmarks/audio.py FOLDER parity      # 1 to 70 s against transformers and the fake-quant reference
    python benchmarks/audio.py FOLDER layers      # each layer of ExecuTorch's int8 tower alone, against fake-quant
    python benchmarks/audio.py FOLDER speed       # seconds of encoding for each second of a clip, and of 90 s
    python benchmarks/audio.py FOLDER long        # 90 s: tokens, memory, equality

The stages are apart because each is measured in a fresh process. All but ``layers`` take ``--runtime`` too.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
import torch
from lab import resident_bytes, seconds_of
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file
from torch import Tensor

from g3n_compiler.checkpoint.fields import read_json
from g3n_compiler.checkpoint.safetensors import SafetensorsFile
from g3n_compiler.lower.litert.audio import convert_audio, write_audio
from g3n_compiler.lower.registry import BACKENDS
from g3n_compiler.models.gemma3n.audio import AudioEncoder
from g3n_compiler.models.gemma3n.audio_weights import (
    AudioReader,
    audio_embedder_weights,
    audio_weights,
    checkpoint_spec,
)
from g3n_compiler.models.gemma3n.soft_tokens import Embedder
from g3n_compiler.models.gemma3n.tower_config import AudioConfig, load_audio_config
from g3n_compiler.models.weights import LazyWeights, Weights, WeightSpec
from g3n_compiler.quantize.fake import FakeQuantWeights
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.verify.checks import relative_error
from g3n_compiler.verify.tower_blocks import StepErrors, clip_errors
from g3n_runtime.litert.audio import LiteRtAudio
from g3n_runtime.media.mel import RATE, LogMel
from g3n_runtime.media.sound import CLIP_SECONDS

if TYPE_CHECKING:
    from g3n_runtime.executorch.audio import ExecuTorchAudio

TOWER = "tower.safetensors"
PROGRAM = "audio.pte"
NAMES = ("fp32", "int8")
THREADS = 2
SECONDS = (1, 5, 30, 70)
TIMED = (30, 90)
console = Console()


def sound_of(seconds: float) -> np.ndarray:
    """A voice-like sound: a gliding buzz with pauses, and noise; the longer one begins with the shorter one."""
    at = np.arange(int(seconds * RATE)) / RATE
    pitch = np.cumsum(120 + 40 * np.sin(2 * np.pi * 0.7 * at)) / RATE
    buzz = sum(np.sin(2 * np.pi * k * pitch) / k for k in range(1, 20))
    envelope = np.clip(np.sin(2 * np.pi * 1.3 * at), 0, None) ** 0.5
    noise = np.random.default_rng(0).standard_normal(90 * RATE)[: len(at)]
    return (0.15 * buzz * envelope + 0.01 * noise).astype(np.float32)


def write_tower(folder: Path) -> AudioConfig:
    """``config.json`` and a random tower in bfloat16, one tensor at a time."""
    from transformers import Gemma3nConfig

    Gemma3nConfig().save_pretrained(folder)
    config = load_audio_config(read_json(folder / "config.json"))
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    for spec in (audio_weights(config) | audio_embedder_weights(config)).values():
        shape = checkpoint_spec(config, spec).shape
        value = torch.randn(shape, generator=generator)
        fan_in = value[0].numel()
        tensors[spec.tensor] = (value * 0.1 + 1 if len(shape) == 1 else value * fan_in**-0.5).bfloat16()
    save_file(tensors, folder / TOWER)
    return config


def open_tower(folder: Path) -> tuple[AudioConfig, Callable[..., Tensor]]:
    config = load_audio_config(read_json(folder / "config.json"))
    file = SafetensorsFile(folder / TOWER)

    def read(spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor:
        return file.read(spec.tensor, rows).float()

    return config, read


def memory() -> dict[str, float]:
    """Resident gigabytes of this process: now (anonymous, file-backed), and the peak."""
    found = resident_bytes()
    return {name: found[name] / 1e9 for name in ("VmHWM", "RssAnon", "RssFile")}


@click.group()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.pass_context
def main(context: click.Context, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(THREADS)
    context.obj = folder


RUNTIME = click.option("--runtime", type=click.Choice(list(BACKENDS)), default="litert")
RECIPE = click.option("--recipe", "recipes", type=click.Choice(NAMES), multiple=True, default=NAMES)


@main.command("compile")
@RUNTIME
@RECIPE
@click.pass_obj
def compile_tower(folder: Path, runtime: str, recipes: tuple[str, ...]) -> None:
    if not (folder / TOWER).exists():
        write_tower(folder)
        console.print("tower written; run again to compile in a process of its own")
        return
    config, read = open_tower(folder)
    if runtime == "executorch":
        compile_executorch(folder, config, read, recipes)
        return
    start = time.perf_counter()
    graphs = convert_audio(config)
    console.print(f"graphs: {time.perf_counter() - start:.0f} s, {memory()}")
    for name in recipes:
        start = time.perf_counter()
        (folder / name).mkdir(exist_ok=True)
        parts = write_audio(graphs, config, RECIPES[name], read, folder / name)
        size = parts.encoder.stat().st_size
        console.print(f"{name}: {size / 1e6:.0f} MB, {time.perf_counter() - start:.0f} s, {memory()}")
        console.print(json.dumps(asdict(parts.delegation)))


def compile_executorch(
    folder: Path, config: AudioConfig, read: Callable[..., Tensor], recipes: tuple[str, ...]
) -> None:
    from g3n_compiler.lower.executorch.audio import write_audio as write_program

    for name in recipes:
        start = time.perf_counter()
        (folder / name).mkdir(exist_ok=True)
        delegation = write_program(config, RECIPES[name], read, folder / name / PROGRAM)
        size = (folder / name / PROGRAM).stat().st_size
        console.print(f"executorch {name}: {size / 1e6:.0f} MB, {time.perf_counter() - start:.0f} s, {memory()}")
        console.print(json.dumps(asdict(delegation)))


@main.command()
@RUNTIME
@click.pass_obj
def parity(folder: Path, runtime: str) -> None:
    config, read = open_tower(folder)
    table = Table("seconds", "tokens", "eager / transformers", "fp32", "int8")
    for seconds in SECONDS:
        sound = sound_of(seconds)
        exact, rounded = (ours(config, read, name, sound) for name in NAMES)
        cells = [relative_error(exact, hf(folder, config, read, sound))]
        for name, expected in zip(NAMES, (exact, rounded), strict=True):
            cells.append(relative_error(encoder_of(folder, name, runtime, seconds)(sound), expected))
        table.add_row(str(seconds), str(len(exact)), *(f"{c:.1e}" for c in cells))
    console.print(f"{runtime}, largest relative error: fp32 against eager fp32, int8 against the fake-quant reference")
    console.print(table)


@main.command()
@click.pass_obj
def layers(folder: Path) -> None:
    config, read = open_tower(folder)
    weights = weights_of(config, read, "int8")
    encoder, embedder = AudioEncoder(config, weights), Embedder(config.embedder, "audio", weights)
    sound = sound_of(1)
    found, steps = StepErrors(), open_executorch(folder, "int8").clip_steps(sound)
    clip_errors(encoder, embedder.soft, LogMel().clip(sound), steps, found)
    console.print(f"largest relative error of one layer: {found.worst:.1e}, of {found.where}")


@main.command()
@RUNTIME
@RECIPE
@click.pass_obj
def speed(folder: Path, runtime: str, recipes: tuple[str, ...]) -> None:
    table = Table("", *(f"{seconds} s" for seconds in TIMED))
    for name in recipes:
        cells = []
        for seconds in TIMED:
            encode, sound = encoder_of(folder, name, runtime, seconds), sound_of(seconds)
            encode(sound)
            took = min(seconds_of(functools.partial(encode, sound), 3))
            cells.append(f"{took / seconds:.3f}")
            del encode
        table.add_row(name, *cells)
    console.print(f"{runtime}: seconds of encoding for each second of sound, {THREADS} threads")
    console.print(table)


@main.command()
@RUNTIME
@click.option("--recipe", default="int8", type=click.Choice(NAMES))
@click.pass_obj
def long(folder: Path, runtime: str, recipe: str) -> None:
    sound = sound_of(90)
    tokens = encoder_of(folder, recipe, runtime, 90)(sound)
    console.print(f"{runtime} {recipe}: {len(tokens)} tokens; memory in GB: {memory()}")
    clip = encoder_of(folder, recipe, runtime, 30)(sound[: 30 * RATE])
    console.print(f"first 30 s against the clip of 30 s: tokens 1-187 {relative_error(tokens[:187], clip[:187]):.1e}")
    console.print(f"token 188, which the clip's end cuts short: {relative_error(tokens[187:188], clip[187:]):.1e}")


Encode = Callable[[np.ndarray], np.ndarray]


def encoder_of(folder: Path, name: str, runtime: str, seconds: float) -> Encode:
    """What a sound of ``seconds`` goes through; in ExecuTorch one longer than a clip takes steps of 160 ms."""
    if runtime == "litert":
        return LiteRtAudio(folder / name / "audio_encode.tflite", folder / name / "audio_adapt.tflite", THREADS)
    audio = open_executorch(folder, name)
    return audio if seconds <= CLIP_SECONDS else audio.stream


def open_executorch(folder: Path, name: str) -> ExecuTorchAudio:
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

    from g3n_runtime.executorch.audio import ExecuTorchAudio

    _unsafe_reset_threadpool(THREADS)
    return ExecuTorchAudio(folder / name / PROGRAM)


@torch.no_grad()
def ours(config: AudioConfig, read: Callable[..., Tensor], name: str, sound: np.ndarray) -> np.ndarray:
    """Our encoder over exact or fake-quantised weights, read as they are needed."""
    weights = weights_of(config, read, name)
    encoder = AudioEncoder(config, weights)
    mel = torch.from_numpy(LogMel().clip(sound)).unsqueeze(0)
    features = encoder.encode(mel, torch.ones(mel.shape[:2]))
    return Embedder(config.embedder, "audio", weights).soft(features)[0].numpy()


def weights_of(config: AudioConfig, read: Callable[..., Tensor], name: str) -> Weights:
    specs, reader = audio_weights(config) | audio_embedder_weights(config), AudioReader(config, read)
    return LazyWeights(reader, specs) if name == "fp32" else FakeQuantWeights(reader, specs, RECIPES[name], keep=False)


@torch.no_grad()
def hf(folder: Path, config: AudioConfig, read: Callable[..., Tensor], sound: np.ndarray) -> np.ndarray:
    """``transformers``, feature extractor included, eager in float32."""
    from transformers import AutoConfig, Gemma3nAudioFeatureExtractor
    from transformers.models.gemma3n import modeling_gemma3n as gemma3n

    whole = AutoConfig.from_pretrained(folder)
    tower = gemma3n.Gemma3nAudioEncoder(whole.audio_config).float().eval()
    embedder = gemma3n.Gemma3nMultimodalEmbedder(whole.audio_config, whole.text_config).float().eval()
    by_tensor = {
        s.tensor: checkpoint_spec(config, s) for s in (audio_weights(config) | audio_embedder_weights(config)).values()
    }
    for prefix, module in (("audio_tower.", tower), ("embed_audio.", embedder)):
        for name, parameter in module.named_parameters():
            parameter.copy_(read(by_tensor[prefix + name]))
    inputs = Gemma3nAudioFeatureExtractor()([sound], return_tensors="pt")
    features = tower(inputs.input_features, ~inputs.input_features_mask.bool(), return_dict=True).last_hidden_state
    return embedder(inputs_embeds=features)[0].numpy()


if __name__ == "__main__":
    main()

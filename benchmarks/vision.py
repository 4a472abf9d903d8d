"""The vision tower at its true size, with random weights: compile memory, delegation, parity and speed.

    python benchmarks/vision.py checkpoint WORK        # 0.6 GB: the true encoder beside a one-layer text model
    python benchmarks/vision.py lower WORK --recipe fp32 --runtime litert
    python benchmarks/vision.py lower WORK --recipe int8 --runtime executorch
    python benchmarks/vision.py parity WORK            # against timm in float32, and against fake-quant
    python benchmarks/vision.py speed WORK             # seconds an image, 2 threads

Each prints one JSON object a line. ``parity`` and ``speed`` take what was lowered before. Layer scales are near 0.5: at
their init of 1e-5 they hide what a block computes.
"""

from __future__ import annotations

import json
import math
import resource
import shutil
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import torch
from lab import seconds_of
from safetensors.torch import save_file

from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.lower.litert.delegation import operators_by_signature, summarize
from g3n_compiler.lower.litert.file_headers import write_file_headers
from g3n_compiler.lower.litert.vision import convert_adapter, convert_encoder
from g3n_compiler.lower.registry import BACKENDS
from g3n_compiler.lower.signatures.vision import AdaptImage, EncodeImage, adapter_read
from g3n_compiler.models.embedding_tables import embedding_weights
from g3n_compiler.models.gemma3n.tower_config import VISION_ARCHITECTURE, VisionConfig
from g3n_compiler.models.gemma3n.vision_layout import RESOLUTIONS, read_layout
from g3n_compiler.models.gemma3n.vision_weights import vision_weights
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import relative_error
from g3n_compiler.verify.vision import VisionReference, golden_image, load_hf_vision
from g3n_runtime.litert.vision import LiteRtVision, encoder_name

if TYPE_CHECKING:
    from g3n_runtime.executorch.vision import ExecuTorchVision

TEXT: dict[str, Any] = {
    "hidden_size": 2048,
    "intermediate_size": [64, 64],
    "num_hidden_layers": 2,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 512,
    "vocab_size_per_layer_input": 256,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 8,
    "sliding_window": 16,
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"],
    "activation_sparsity_pattern": [0.0, 0.0],
}
SIDES = tuple(sorted(RESOLUTIONS, reverse=True))


@click.group()
def main() -> None:
    torch.set_num_threads(2)


@main.command()
@click.argument("work", type=click.Path(path_type=Path))
def checkpoint(work: Path) -> None:
    """Write the random checkpoint, tensor by tensor in bfloat16."""
    work.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    vision = {"architecture": VISION_ARCHITECTURE, "vocab_offset": 256}
    ids = {"boi_token_id": 254, "eoi_token_id": 256, "image_token_id": 257}
    config = {"model_type": "gemma3n", "text_config": TEXT, "vision_config": vision, "eos_token_id": 1, **ids}
    (work / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {"model.language_model.embed_tokens.weight": torch.zeros(512, 2048, dtype=torch.bfloat16)}
    tensors["model.vision_tower.timm_model.conv_stem.conv.bias"] = torch.zeros(64, dtype=torch.bfloat16)
    save_file(tensors, work / "model.safetensors")
    opened = Source.open(work)
    assert opened.vision is not None
    text = [*text_weights(opened.text).values(), *embedding_weights(opened.text).values()]
    for spec in text:
        tensors[opened.tensor_name(spec.tensor)] = torch.zeros(1, dtype=torch.bfloat16)
    for spec in vision_weights(opened.vision, 2048).values():
        shape = spec.shape
        if spec.axes is not None:
            shape = tuple(shape[spec.axes.index(i)] for i in range(len(shape)))
        elif len(shape) == 2 and spec.name.startswith("vision."):
            shape = (*shape, 1, 1)
        tensors[opened.tensor_name(spec.tensor)] = _random(spec.name, shape).to(torch.bfloat16)
    save_file(tensors, work / "model.safetensors")


def _random(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) > 1:
        return torch.randn(shape) / math.sqrt(math.prod(shape[1:]))
    centre = 0.5 if name.endswith("gamma") else 0.0 if name.endswith("bias") else 1.0
    return centre + 0.1 * torch.randn(shape)


def _open(work: Path) -> tuple[Source, VisionConfig]:
    opened = Source.open(work)
    assert opened.vision is not None
    return opened, opened.vision


@main.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--recipe", default="int8")
@click.option("--runtime", type=click.Choice(list(BACKENDS)), default="litert")
def lower(work: Path, recipe: str, runtime: str) -> None:
    """Write what ``parity`` and ``speed`` run, and say what the delegate takes."""
    if runtime == "litert":
        _lower_litert(work, recipe)
    else:
        _lower_executorch(work, recipe)


def _lower_executorch(work: Path, recipe: str) -> None:
    from g3n_compiler.lower.executorch.vision import write_vision

    opened, config = _open(work)
    start, path = time.perf_counter(), _program(work, recipe)
    made = write_vision(config, 2048, get_recipe(recipe), adapter_read(opened, config), SIDES, path)
    numbers = {"flop_share": made.flop_share, "fallbacks": made.fallbacks, "peak": _peak()}
    _say("executorch", recipe, seconds=time.perf_counter() - start, bytes=path.stat().st_size, **numbers)


def _lower_litert(work: Path, recipe: str) -> None:
    """Convert (at the first call), quantise and bind; then what the delegate takes, by resolution."""
    opened, config = _open(work)
    layout, chosen = read_layout(config), get_recipe(recipe)
    graph, start = work / "graph.bin", time.perf_counter()
    if not graph.exists():
        graph.write_bytes(convert_encoder(layout, SIDES))
        _say("convert", recipe, seconds=time.perf_counter() - start, bytes=graph.stat().st_size, peak=_peak())
    start = time.perf_counter()
    encoder, adapter = _parts(work, recipe)
    signature_groups = [(encoder_name(side),) for side in SIDES]
    bind(graph.read_bytes(), EncodeImage(layout).specs, chosen, opened.read, encoder, signature_groups)
    by_signature = operators_by_signature(encoder)
    views = {
        name: begin
        for (name,), begin in zip(signature_groups, write_file_headers(encoder, signature_groups), strict=True)
    }
    _views(work, recipe).write_text(json.dumps(views), encoding="utf-8")
    specs = AdaptImage(config, 2048).specs
    bind(convert_adapter(config, 2048), specs, chosen, adapter_read(opened, config), adapter)
    _say("bind", recipe, seconds=time.perf_counter() - start, bytes=encoder.stat().st_size, peak=_peak())
    for name, operators in by_signature.items():
        found = summarize(operators)
        flops = sum(o.flops for o in operators)
        _say(name, recipe, gflops=flops / 1e9, flop_share=found.flop_share, fallbacks=found.fallbacks)


@main.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--side", "sides", type=int, multiple=True, default=SIDES)
def parity(work: Path, sides: tuple[int, ...]) -> None:
    """Relative error, the worst of all soft tokens, of each form against its reference."""
    opened, config = _open(work)
    timm = load_hf_vision(opened, config)
    exact = {side: timm(golden_image(side)) for side in sides}
    del timm
    ours = VisionReference(opened, config)
    for side in sides:
        _say("eager against timm", side, error=relative_error(ours.embed(golden_image(side)), exact[side]))
    rounded = VisionReference(opened, config, get_recipe("int8"))
    for side in sides:
        image = golden_image(side)
        want = rounded.embed(image)
        _say("noise of int8 against timm", side, error=relative_error(want, exact[side]))
        for runtime in _lowered(work, "fp32"):
            error = relative_error(_model(work, "fp32", runtime).embed(image), exact[side])
            _say(f"{runtime} fp32 against timm", side, error=error)
        for runtime in _lowered(work, "int8"):
            model = _model(work, "int8", runtime)
            got = model.embed(image)
            numbers = {"against_fake_quant": relative_error(got, want), "cosine_to_fp32": _cosine(got, exact[side])}
            if not isinstance(model, LiteRtVision):
                numbers["worst_block_alone"] = rounded.errors(image, model.steps(image)).worst
            _say(f"{runtime} int8", side, **numbers)


@main.command()
@click.argument("work", type=click.Path(path_type=Path))
@click.option("--runs", default=3)
@click.option("--recipe", "recipes", multiple=True, default=("fp32", "int8"))
@click.option("--side", "sides", type=int, multiple=True, default=SIDES)
@click.option("--runtime", "runtimes", type=click.Choice(list(BACKENDS)), multiple=True, default=list(BACKENDS))
def speed(work: Path, runs: int, recipes: tuple[str, ...], sides: tuple[int, ...], runtimes: tuple[str, ...]) -> None:
    """Seconds an image, from pixels to soft tokens, after one run to warm up."""
    for recipe in recipes:
        for runtime in runtimes:
            if runtime not in _lowered(work, recipe):
                continue
            for side in sides:
                image = golden_image(side)
                model = _model(work, recipe, runtime)
                model.embed(image)
                times = seconds_of(lambda model=model, image=image: model.embed(image), runs)
                _say(runtime, recipe, side=side, median=statistics.median(times), best=min(times), peak=_peak())


def _lowered(work: Path, recipe: str) -> list[str]:
    """The runtimes that the tower was lowered for."""
    found = {"litert": _parts(work, recipe)[0], "executorch": _program(work, recipe)}
    return [runtime for runtime, path in found.items() if path.exists()]


def _program(work: Path, recipe: str) -> Path:
    return work / f"{recipe}-vision.pte"


def _model(work: Path, recipe: str, runtime: str) -> LiteRtVision | ExecuTorchVision:
    if runtime == "litert":
        return _litert_model(work, recipe)
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool

    from g3n_runtime.executorch.vision import ExecuTorchVision

    _unsafe_reset_threadpool(2)
    return ExecuTorchVision(_program(work, recipe))


def _parts(work: Path, recipe: str) -> tuple[Path, Path]:
    return work / f"{recipe}-encoder.tflite", work / f"{recipe}-adapter.tflite"


def _litert_model(work: Path, recipe: str) -> LiteRtVision:
    """The encoder's headers share the file's weights: each resolution is copied out from its own header on."""
    encoder, adapter = _parts(work, recipe)
    views = {}
    for name, begin in json.loads(_views(work, recipe).read_text(encoding="utf-8")).items():
        path = work / f"{recipe}-{name}.tflite"
        if not path.exists():
            with encoder.open("rb") as source, path.open("wb") as target:
                source.seek(begin)
                shutil.copyfileobj(source, target, 1 << 20)
        views[int(name.rpartition("_")[2])] = path
    return LiteRtVision(views, adapter)


def _views(work: Path, recipe: str) -> Path:
    return work / f"{recipe}-views.json"


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def _peak() -> int:
    """Largest resident bytes of this process so far, mapped files included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _say(what: str, of: object, **numbers: object) -> None:
    rounded = {k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in numbers.items()}
    click.echo(json.dumps({"what": what, "of": of, **rounded}))


if __name__ == "__main__":
    main()

"""A finished ``.litertlm`` on LiteRT's GPU delegate and in the stock engine on the GPU, each in a process of its own.

A driver's fault can end the process, and the environment must name the driver before anything of it is loaded.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from g3n_compiler.errors import EngineError, ResourceError
from g3n_compiler.lower.accelerator import AcceleratorOutputs, AcceleratorRun
from g3n_compiler.lower.arm64_kit import Text
from g3n_compiler.lower.isolated import isolated
from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.container import extract, sections
from g3n_compiler.lower.litert.layers import LayeredDecoder
from g3n_compiler.lower.litert.opened import SECTIONS
from g3n_compiler.lower.litert.partial_model import PARTIAL
from g3n_compiler.lower.signatures.text import DECODE
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_runtime.chat import GREEDY, Placement
from g3n_runtime.litert.engine import LiteRtEngine
from g3n_runtime.litert.gpu import GpuModel
from g3n_runtime.litert.model import LiteRtTables
from g3n_runtime.litert.text_loop import TextLoop
from g3n_runtime.litert.vision import ADAPTER, encoder_name, encoder_side
from g3n_runtime.litert.vulkan import find_driver, require_driver


def usable_driver() -> str | None:
    """The name of the driver here, if the delegate takes it: some lack what it needs, and then refuse every model."""
    if (driver := find_driver()) is None:
        return None
    try:
        isolated(_run_smallest)
    except (EngineError, ResourceError):
        return None
    return driver.name


def _run_smallest() -> None:
    """Run a model of one operator, ``y = x + x``."""
    tensors = [schema.TensorT(shape=[1, 4], type=schema.TensorType.FLOAT32, name=name, buffer=0) for name in "xy"]
    add = schema.OperatorT(
        opcodeIndex=0,
        inputs=[0, 0],
        outputs=[1],
        builtinOptionsType=schema.BuiltinOptions.AddOptions,
        builtinOptions=schema.AddOptionsT(),
    )
    ends = [[schema.TensorMapT(name=name, tensorIndex=i)] for i, name in enumerate("xy")]
    model = schema.ModelT(
        version=3,
        operatorCodes=[schema.OperatorCodeT(schema.BuiltinOperator.ADD, version=1)],
        subgraphs=[schema.SubGraphT(tensors=tensors, inputs=[0], outputs=[1], operators=[add])],
        buffers=[schema.BufferT()],
        signatureDefs=[schema.SignatureDefT(ends[0], ends[1], "add", 0)],
    )
    require_driver().use()
    with tempfile.TemporaryDirectory(prefix="g3n-gpu-") as folder:
        path = Path(folder) / "add.tflite"
        path.write_bytes(flatbuffer.pack(model))
        result = GpuModel(path).call("add", {"x": np.ones((1, 4), np.float32)})["y"]
    if not np.array_equal(result, np.full((1, 4), 2, np.float32)):
        raise EngineError("the GPU does not add")


def run_on_gpu(packed: Path, config: TextConfig, run: AcceleratorRun, lengths: Sequence[int]) -> AcceleratorOutputs:
    """What the ``.litertlm`` at ``packed``, whose prefill signatures have ``lengths``, computes on the GPU."""
    logits, prefilled = isolated(_run_texts, packed, list(run.texts), tuple(lengths)) if run.texts else ([], [])
    images = isolated(_run_images, packed, dict(run.images)) if run.images else {}
    answers = isolated(_ask, packed, list(run.prompts), run.max_new_tokens) if run.prompts else []
    layers = None if run.layers is None else isolated(_run_layers, packed, config, run.layers, run.only)
    return AcceleratorOutputs(logits, prefilled, answers, layers, images)


def _run_texts(
    packed: Path, texts: Sequence[Text], lengths: tuple[int, ...]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    require_driver().use()
    with tempfile.TemporaryDirectory(dir=packed.parent, prefix=".gpu-") as folder:
        parts = {name: Path(folder) / f"{kind}.tflite" for name, kind in SECTIONS.items()}
        for name, kind in SECTIONS.items():
            extract(packed, kind, parts[name])
        tables = LiteRtTables(parts["token_embedding"], parts["per_layer_embedding"])
        model = GpuModel(parts["core"])
        logits, prefilled = [], []
        for text in texts:
            loop = _GpuText(tables, model, lengths)
            logits.append(np.stack([loop.decode(token) for token in text.ids]))
            loop = _GpuText(tables, model, lengths)
            loop.prefill(text.ids[: text.prompt - 1])
            prefilled.append(np.stack([loop.decode(token) for token in text.ids[text.prompt - 1 :]]))
        return logits, prefilled


@dataclass(frozen=True)
class RecordedLayers:
    """What a decoder computed of one text, layer by layer; see :class:`g3n_compiler.lower.opened.LayeredModel`."""

    rows: np.ndarray
    ple_rows: np.ndarray
    outputs: list[np.ndarray]

    def embeddings(self, ids: Sequence[int]) -> np.ndarray:
        return self.rows

    def ple(self, ids: Sequence[int]) -> np.ndarray:
        return self.ple_rows

    def run(self, embeddings: np.ndarray, ple: np.ndarray, prompt: int) -> Iterator[np.ndarray]:
        return iter(self.outputs)


def _run_layers(packed: Path, config: TextConfig, text: Text, only: tuple[int, ...] | None) -> RecordedLayers:
    """One layer at a time is on the GPU, so that no more than its weights are copied there."""
    require_driver().use()
    with tempfile.TemporaryDirectory(dir=packed.parent, prefix=".gpu-") as folder:
        parts = [Path(folder) / f"{kind}.tflite" for kind in SECTIONS.values()]
        for kind, part in zip(SECTIONS.values(), parts, strict=True):
            extract(packed, kind, part)
        tables = LiteRtTables(*parts[1:])
        rows, ple = tables.embeddings(text.ids), tables.ple(text.ids)
        decoder = LayeredDecoder(parts[0], config, opener=GpuPart, only=only)
        return RecordedLayers(rows, ple, list(decoder.run(rows, ple, text.prompt)))


class GpuPart:
    """See :class:`g3n_compiler.lower.litert.partial_model.Part`."""

    def __init__(self, path: Path, inputs: Sequence[str]) -> None:
        self._inputs, self._model = tuple(inputs), GpuModel(path)

    def __call__(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._model.call(PARTIAL, {name: values[name] for name in self._inputs})


class _GpuText(TextLoop):
    """A text whose caches are arrays, as :class:`g3n_runtime.litert.model.LiteRtModel` has them on the CPU."""

    def __init__(self, tables: LiteRtTables, model: GpuModel, lengths: Sequence[int]) -> None:
        shapes = model.shapes(DECODE)
        super().__init__(tables, shapes["mask"][-1], lengths)
        self._model = model
        self._caches = {n: np.zeros(shape, np.float32) for n, shape in shapes.items() if n.startswith("kv_cache_")}

    def _signature(self, name: str, size: str | None) -> str:
        assert size is None
        return name

    def _call(self, signature: str, inputs: dict[str, np.ndarray]) -> np.ndarray | None:
        out = self._model.call(signature, inputs | self._caches)
        self._caches = {name: out[name] for name in self._caches}
        return out["logits"][0] if "logits" in out else None


def _run_images(packed: Path, images: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
    """Soft tokens and the end row of each picture: the encoder on the GPU, the adapter on the CPU as on the device."""
    from ai_edge_litert.interpreter import Interpreter

    require_driver().use()
    found: dict[int, np.ndarray] = {}
    with tempfile.TemporaryDirectory(dir=packed.parent, prefix=".gpu-") as folder:
        extract(packed, "vision_adapter", adapter := Path(folder) / "adapter.tflite")
        adapt = Interpreter(model_path=str(adapter)).get_signature_runner(ADAPTER)
        views = {encoder_side(s.kind): s.kind for s in sections(packed) if encoder_side(s.kind) is not None}
        for side, image in images.items():
            extract(packed, views.get(side, "vision_encoder"), encoder := Path(folder) / f"{side}.tflite")
            features = GpuModel(encoder).call(encoder_name(side), {"images": image[None].astype(np.float32)})
            found[side] = adapt(features=features["features"])["mm_embedding"][0]
    return found


def _ask(packed: Path, prompts: Sequence[str], most: int) -> list[str]:
    with LiteRtEngine(packed, placement=Placement("gpu")) as engine:
        return ["".join(engine.generate(prompt, GREEDY, most)) for prompt in prompts]

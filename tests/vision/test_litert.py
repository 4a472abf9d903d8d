"""The tower as it lies in a ``.litertlm``: alone under the interpreter, and in the stock engine with a picture."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from g3n_compiler.errors import EngineError, ParityError
from g3n_compiler.lower.litert.backend import LiteRtBackend
from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.lower.litert.container import extract, sections
from g3n_compiler.lower.litert.delegation import measure
from g3n_compiler.lower.litert.partial_model import PartialModel
from g3n_compiler.lower.litert.tower_blocks import run_blocks
from g3n_compiler.lower.signatures.vision import EncodeImage
from g3n_compiler.models.gemma3n.tower_config import VisionConfig
from g3n_compiler.models.gemma3n.vision_layout import read_layout
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.verify.checks import EXACT, SAME, Parity, relative_error
from g3n_compiler.verify.vision import VisionReference, golden_image, vision_checks
from g3n_runtime.chat import GREEDY, Attachments
from g3n_runtime.litert.chat import LiteRtChat
from g3n_runtime.litert.media import MediaFrontEnd
from g3n_runtime.litert.vision import LiteRtVision, encoder_name
from g3n_runtime.media.image import load_image
from tests.vision.conftest import SIDES, LoweredVision

QUESTION = "What is in the picture?"


@pytest.fixture(scope="module")
def config(lowered: LoweredVision) -> VisionConfig:
    assert lowered.job.vision is not None
    return lowered.job.vision


def test_artifact_equals_transformers_and_onnxruntime(lowered: LoweredVision, config: VisionConfig) -> None:
    model = LiteRtBackend().open_vision(lowered.lowered.paths(lowered.job.directory))
    assert model is not None and model.resolutions == SIDES
    checks = vision_checks(lowered.job, config, {"litert": lambda: model})
    assert [c.runtime for c in checks] == ["eager", "eager", "onnxruntime", "litert", "litert"]
    assert all(c.passed and c.limit == EXACT for c in checks), checks


def test_a_missing_resolution_fails_verification(lowered: LoweredVision, config: VisionConfig) -> None:
    class OneSize:
        resolutions = (256,)

        def embed(self, image: np.ndarray) -> np.ndarray:
            return VisionReference(lowered.job.source, config).embed(image)

    one = [c for c in vision_checks(lowered.job, config, {"litert": OneSize}) if c.runtime == "litert"]
    assert [c.passed for c in one] == [True, False]
    with pytest.raises(ParityError, match="512"):
        Parity(one).require()


def test_a_tower_is_closed_before_the_next_is_opened(lowered: LoweredVision, config: VisionConfig) -> None:
    class NoSize:
        resolutions = ()

    opened = weakref.WeakSet[NoSize]()

    def first() -> NoSize:
        opened.add(model := NoSize())
        return model

    def second() -> None:
        assert not opened, "E2B's towers take a gigabyte each"

    checks = vision_checks(lowered.job, config, {"litert": first, "executorch": second})  # type: ignore[dict-item]
    seen = [c for c in checks if c.runtime in ("litert", "executorch")]
    assert len(seen) == 2 * len(SIDES) and not any(c.passed for c in seen)


def test_the_last_row_is_the_end_of_image(lowered: LoweredVision, config: VisionConfig) -> None:
    model = LiteRtBackend().open_vision(lowered.lowered.paths(lowered.job.directory))
    assert model is not None
    from g3n_compiler.models.gemma3n.transformers_model import load_hf_embedder

    embedder = load_hf_embedder(lowered.job.source, "vision", config.embedder)
    with torch.no_grad():
        want = embedder(input_ids=torch.tensor([[config.eoi_id]]))[0].numpy()
    assert relative_error(model.embed(golden_image(256))[-1:], want) < EXACT


def test_weights_lie_in_the_file_once(lowered: LoweredVision) -> None:
    found = {s.kind: s for s in sections(lowered.path)}
    whole, view = found["vision_encoder"], found["vision_encoder_512"]
    assert whole.begin < view.begin < view.end == whole.end and view.begin % 16384 == 0
    weights = sum(4 * torch.Size(s.shape).numel() for s in EncodeImage(read_layout(lowered.job.vision)).specs.values())
    assert whole.end - whole.begin < 1.3 * weights


@pytest.fixture(scope="module")
def int8_encoder(lowered: LoweredVision, config: VisionConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("int8") / "encoder.tflite"
    specs = EncodeImage(read_layout(config)).specs
    bind(lowered.encoder_graph, specs, RECIPES["int8"], lowered.job.source.read, path)
    return path


@pytest.fixture(scope="module")
def int8_model(lowered: LoweredVision, int8_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> LiteRtVision:
    """The int8 encoder before the float32 adapter."""
    adapter = tmp_path_factory.mktemp("adapter") / "adapter.tflite"
    extract(lowered.path, "vision_adapter", adapter)
    return LiteRtVision(dict.fromkeys(SIDES, int8_encoder), adapter)


def steps_of(encoder: Path, image: np.ndarray, tmp_path: Path) -> list[np.ndarray]:
    """What each step of an encoder gave."""
    copy = tmp_path / "cut.tflite"
    copy.write_bytes(encoder.read_bytes())
    *maps, last = run_blocks(PartialModel(copy), encoder_name(len(image)), {"images": image[None]}, ("features",))
    return [*maps, last["features"]]


@pytest.mark.parametrize("side", SIDES)
def test_each_step_of_int8_equals_the_fake_quant_reference(
    side: int,
    lowered: LoweredVision,
    config: VisionConfig,
    int8_encoder: Path,
    int8_model: LiteRtVision,
    tmp_path: Path,
) -> None:
    rounded, exact = (VisionReference(lowered.job.source, config, r) for r in (RECIPES["int8"], None))
    image, limit = golden_image(side), RECIPES["int8"].layer_tolerance
    steps = steps_of(int8_encoder, image, tmp_path)
    tokens = int8_model.adapt(steps[-1])
    found = rounded.errors(image, [*steps, tokens]).errors
    found.pop("the adapter")
    assert len(found) == 2 + sum(len(stage) for stage in read_layout(config).stages)
    assert max(found.values()) < limit / 2, found
    # It is the rounded blocks that are equal, and the whole graph is nothing but its blocks.
    assert max(exact.errors(image, [*steps, tokens]).errors.values()) > limit
    assert relative_error(int8_model.embed(image), tokens) < SAME


def test_a_wrong_block_is_named(
    lowered: LoweredVision, config: VisionConfig, int8_encoder: Path, int8_model: LiteRtVision, tmp_path: Path
) -> None:
    """A block that lacks eight of the rows of its first product."""
    image, tampered = golden_image(256), tmp_path / "tampered.tflite"
    lacking = "vision.blocks.2.2.pw_exp.conv"

    def read(spec: WeightSpec, rows: tuple[int, int] | None = None) -> torch.Tensor:
        weight = lowered.job.source.read(spec, rows)
        return weight * (torch.arange(len(weight)) >= 8)[:, None] if spec.name == lacking else weight

    bind(lowered.encoder_graph, EncodeImage(read_layout(config)).specs, RECIPES["int8"], read, tampered)
    steps = steps_of(tampered, image, tmp_path)
    errors = VisionReference(lowered.job.source, config, RECIPES["int8"]).errors(
        image, [*steps, int8_model.adapt(steps[-1])]
    )
    assert {n for n, e in errors.errors.items() if e > RECIPES["int8"].layer_tolerance} - {"the adapter"} == {
        "blocks.2.2"
    }


def test_the_delegate_takes_the_encoder(lowered: LoweredVision, int8_encoder: Path) -> None:
    (encoder,) = (s for s in lowered.lowered.subgraphs if s.name == "vision_encoder")
    assert encoder.signatures == ("vision_encoder_256", "vision_encoder_512")
    for delegation in (encoder.delegation, measure(int8_encoder)):
        assert delegation is not None and delegation.flop_share > 0.99, delegation
        heavy = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL", "SOFTMAX", "GELU", "MEAN"}
        assert not heavy & delegation.fallbacks.keys(), delegation.fallbacks


def test_an_image_of_another_size_is_refused(lowered: LoweredVision) -> None:
    model = LiteRtBackend().open_vision(lowered.lowered.paths(lowered.job.directory))
    assert model is not None
    with pytest.raises(EngineError, match="256, 512"):
        model.embed(np.zeros((300, 300, 3), np.float32))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two pictures of other shapes than the tower takes."""
    folder, paths = tmp_path_factory.mktemp("photos"), []
    for i, (width, height, name) in enumerate(((300, 200, "a.png"), (180, 400, "b.jpg"))):
        pixels = (golden_image(512)[:height, :width] * (255 - 60 * i)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / name)
        paths.append(folder / name)
    return paths


@pytest.fixture(scope="module")
def chat(lowered: LoweredVision) -> Iterator[LiteRtChat]:
    chat = LiteRtChat(lowered.path, media=MediaFrontEnd(SIDES[0]))
    yield chat
    chat.close()


@pytest.fixture(scope="module")
def hf(lowered: LoweredVision) -> Any:
    """The multimodal model in ``transformers``, with its own processor's prompt."""
    from transformers import Gemma3nForConditionalGeneration

    return Gemma3nForConditionalGeneration.from_pretrained(
        lowered.job.source.directory, dtype=torch.float32, attn_implementation={"text_config": "eager"}
    ).eval()


@torch.no_grad()
def reference(hf: Any, lowered: LoweredVision, images: list[Path], text: str, count: int) -> str:
    """Greedy answer of ``transformers``, its own vision tower included."""
    tokenizer, vision = lowered.job.tokenizer, lowered.job.vision
    assert vision is not None
    around = [tokenizer.token(i) for i in (vision.boi_id, vision.image_id, vision.eoi_id)]
    block = "\n\n" + around[0] + around[1] * vision.soft_tokens + around[2] + "\n\n"
    prompt = f"<start_of_turn>user\n{block * len(images)}{text}<end_of_turn>\n<start_of_turn>model\n"
    ids = [tokenizer.bos_id, *tokenizer.encode(prompt)]
    pixels = np.stack([load_image(path, SIDES[0]) for path in images]).astype(np.float32) / 255
    out: list[int] = []
    for _ in range(count):
        given = {"input_ids": torch.tensor([ids + out])}
        logits = hf(**given, pixel_values=torch.from_numpy(pixels).permute(0, 3, 1, 2)).logits[0, -1]
        out.append(int(logits.argmax()))
        if out[-1] in tokenizer.stop_ids:
            return tokenizer.decode(out[:-1])
    return tokenizer.decode(out)


@pytest.mark.parametrize("count", [1, 2])
def test_greedy_text_about_pictures_equals_transformers(
    count: int, chat: LiteRtChat, hf: Any, lowered: LoweredVision, photos: list[Path]
) -> None:
    chat.reset()
    images = photos[:count]
    got = "".join(chat.send(QUESTION, GREEDY, 8, Attachments(tuple(images))))
    assert got == reference(hf, lowered, images, QUESTION, 8)
    assert len(got) > 3


def test_another_picture_gives_another_answer(chat: LiteRtChat, photos: list[Path]) -> None:
    answers = set()
    for path in photos:
        chat.reset()
        answers.add("".join(chat.send(QUESTION, GREEDY, 8, Attachments((path,)))))
    assert len(answers) == 2


def test_the_tower_is_loaded_with_the_first_picture_and_can_be_released(
    lowered: LoweredVision, photos: list[Path]
) -> None:
    chat = LiteRtChat(lowered.path, media=MediaFrontEnd(SIDES[0]))
    list(chat.send("Hi", GREEDY, 2))
    assert chat.loaded_towers == frozenset()
    list(chat.send(QUESTION, GREEDY, 2, Attachments((photos[0],))))
    assert chat.loaded_towers == {"vision"} and len(chat.conversation.turns) == 2
    chat.reset()
    chat.release_towers()
    list(chat.send("Hi", GREEDY, 2))
    assert chat.loaded_towers == frozenset()
    chat.close()


def test_a_text_bundle_takes_no_picture(lowered: LoweredVision, photos: list[Path]) -> None:
    chat = LiteRtChat(lowered.path)
    with pytest.raises(EngineError, match="no vision tower"):
        list(chat.send(QUESTION, GREEDY, 2, Attachments((photos[0],))))

"""Towers as programs of their own, against the reference step by step, and the loop that feeds the text model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from g3n_compiler.errors import TargetError
from g3n_compiler.lower.artifact import Delegation
from g3n_compiler.lower.executorch.audio import write_audio
from g3n_compiler.lower.executorch.delegates.tower import TowerPiece, TowerTemplates
from g3n_compiler.lower.executorch.delegates.weight_store import StoredWeights
from g3n_compiler.lower.executorch.towers import TracedAudio
from g3n_compiler.lower.executorch.vision import write_vision
from g3n_compiler.lower.signatures.vision import adapter_read
from g3n_compiler.models.eager_cache import EagerCache
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.source import Source
from g3n_compiler.verify.audio import AudioReference, golden_sound
from g3n_compiler.verify.checks import EXACT, SAME, relative_error
from g3n_compiler.verify.vision import VisionReference, golden_image
from g3n_runtime.chat import GREEDY, Attachments, Sampler
from g3n_runtime.errors import ContextFull, EngineError, SoundError
from g3n_runtime.executorch import media
from g3n_runtime.executorch.audio import CLIP, ExecuTorchAudio
from g3n_runtime.executorch.chat import ExecuTorchChat
from g3n_runtime.executorch.media import SoftTokens, TowerFiles
from g3n_runtime.executorch.row_loop import RowLoop
from g3n_runtime.executorch.tokenizer import Vocabulary
from g3n_runtime.executorch.vision import ExecuTorchVision, encoder_name
from g3n_runtime.media.mel import clip_input
from g3n_runtime.prompt import ChatTemplate
from g3n_runtime.sampling import draw
from tests.executorch.conftest import CONTEXT, Lower
from tests.executorch.weights_cache import run_with_cache
from tests.runtime.full import check_full_conversation
from tests.vision.conftest import make_multimodal

SIDE = 256
STAGES = [
    ["er_r1_k3_s2_e4_c128"],
    ["uir_r1_a3_k5_s2_e6_c256"],
    ["uir_r1_a5_k0_s2_e6_c640", "mqa_r1_k3_h12_v2_s1_d64_c640", "uir_r1_a0_k0_s1_e2_c640"],
    ["uir_r1_a0_k5_s2_e2_c1280"],
]
"""As few blocks as have every kind of operator: what is slow here is lowering each."""
PLACEHOLDER = 7


@pytest.fixture(scope="module")
def towers(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return make_multimodal(tmp_path_factory.mktemp("towers"), stages=STAGES).open()


@pytest.fixture(scope="module")
def vision(towers: Source, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Delegation]:
    path = tmp_path_factory.mktemp("vision") / "vision.pte"
    assert towers.vision is not None
    read = adapter_read(towers, towers.vision)
    return path, write_vision(towers.vision, towers.text.hidden_size, RECIPES["int8"], read, (SIDE,), path)


@pytest.fixture(scope="module")
def audio(towers: Source, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Delegation]:
    path = tmp_path_factory.mktemp("audio") / "audio.pte"
    assert towers.audio is not None
    return path, write_audio(towers.audio, RECIPES["fp32"], towers.read, path)


def test_each_block_of_an_int8_tower(towers: Source, vision: tuple[Path, Delegation]) -> None:
    model, image, limit = ExecuTorchVision(vision[0]), golden_image(SIDE), RECIPES["int8"].layer_tolerance
    assert towers.vision is not None
    errors = VisionReference(towers, towers.vision, RECIPES["int8"]).errors(image, model.steps(image))
    assert errors.worst < limit / 2, errors.errors
    assert VisionReference(towers, towers.vision).errors(image, model.steps(image)).worst > limit
    assert relative_error(model.embed(image), errors.result) < SAME
    with pytest.raises(EngineError, match=str(SIDE)):
        model.embed(np.zeros((300, 300, 3), np.float32))


def test_a_float_tower_hears_what_the_reference_hears(towers: Source, audio: tuple[Path, Delegation]) -> None:
    assert towers.audio is not None
    model, reference, sound = TracedAudio(audio[0]), AudioReference(towers, towers.audio), golden_sound(5)
    assert relative_error(model.clip(sound), reference.clip(sound)) < EXACT
    assert relative_error(model.stream(golden_sound(33)), reference.tokens(golden_sound(33))) < EXACT
    assert reference.clip_errors(sound, model.clip_steps(sound)).worst < EXACT
    traces = list(model.stream_steps(sound))
    assert reference.stream_errors(traces).worst < EXACT
    assert relative_error(model.end(), reference.reader.hard_token_row(towers.audio.end_id).view(1, -1).numpy()) == 0
    with pytest.raises(SoundError, match="streaming"):
        model.clip(golden_sound(31))


def test_towers_give_the_same_where_xnnpack_caches_weights(
    vision: tuple[Path, Delegation], audio: tuple[Path, Delegation], tmp_path: Path
) -> None:
    image, sound, hearing = golden_image(SIDE), golden_sound(5), ExecuTorchAudio(audio[0])
    (seen,) = run_with_cache(vision[0], None, encoder_name(SIDE), [image[None]], tmp_path)
    assert np.array_equal(seen[0], ExecuTorchVision(vision[0]).embed(image))
    hops, known = clip_input(sound, 16 * len(hearing.clip(sound)))
    (heard,) = run_with_cache(audio[0], None, CLIP, [hops, known.astype(np.float32)], tmp_path)
    assert np.array_equal(heard[0], hearing.clip(sound))


def test_all_is_delegated(vision: tuple[Path, Delegation], audio: tuple[Path, Delegation]) -> None:
    for _, delegation in (vision, audio):
        assert delegation.flop_share == 1.0 and delegation.fallbacks == {} and delegation.total_ops > 250


def test_what_xnnpack_does_not_take_is_refused() -> None:
    class Sorts(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return (torch.sort(x)[0],)

    piece = TowerPiece("sort", "x.", {}, lambda weights: Sorts(), ((4, 4),))
    with pytest.raises(TargetError, match="sort"):
        TowerTemplates(RECIPES["fp32"], StoredWeights())(piece)


BRACKETS = ChatTemplate(
    "{% for m in messages %}{{ '[' + m['content'] + ']' if m['role'] == 'user' else m['content'] }}{% endfor %}",
    media="text",
    placeholders={"image": "<image_soft_token>"},
)


class Eyes:
    """A tower that sees ``rows`` in every picture."""

    ids = (5, PLACEHOLDER, 9)

    def __init__(self, rows: np.ndarray) -> None:
        self._rows = rows

    def embed(self, image: np.ndarray) -> np.ndarray:
        assert image.shape == (SIDE, SIDE, 3) and 0 < image.max() <= 1
        return self._rows


@pytest.fixture
def chat(lowered: Lower, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ExecuTorchChat, np.ndarray]]:
    one = lowered("int4")
    rows = np.random.default_rng(0).normal(0, 1, (6, one.config.hidden_size)).astype(np.float32)
    monkeypatch.setattr(media, "ExecuTorchVision", lambda path: Eyes(rows))
    chat = ExecuTorchChat(one.parts, BRACKETS, TowerFiles(Path("vision.pte"), None, SIDE))
    yield chat, rows
    chat.close()


@torch.no_grad()
def test_a_picture_takes_the_place_of_its_tokens(
    chat: tuple[ExecuTorchChat, np.ndarray], lowered: Lower, tmp_path: Path
) -> None:
    from PIL import Image

    one, (engine, soft) = lowered("int4"), chat
    picture = tmp_path / "a.png"
    Image.fromarray((golden_image(64) * 255).astype(np.uint8)).save(picture)
    assert one.parts.tokenizer is not None
    words = Vocabulary(one.parts.tokenizer)
    ids = [one.config.bos_id, *words.encode("[\n\n"), 5, *[PLACEHOLDER] * 5, 9, *words.encode("\n\nWhat?]")]
    embeddings, at = one.reference.tables.embeddings(ids).clone(), ids.index(5) + 1
    embeddings[0, at : at + 6] = torch.from_numpy(soft)
    positions = torch.arange(len(ids))
    want = one.reference.decoder.decode(embeddings, one.reference.tables.ple(ids), positions, EagerCache(one.config))
    loop = RowLoop(one.parts)
    rows = loop.rows(["[", "\n\n", SoftTokens("image", (5, *[PLACEHOLDER] * 5, 9), soft), "\n\n", "What?", "]"])
    assert relative_error(rows[:, : one.config.hidden_size], embeddings[0].numpy()) < EXACT
    first = int(want[0, -1].argmax())
    said = list(engine.send("What?", GREEDY, 3, Attachments((picture,))))
    assert "".join(said).startswith(words.name(first)) and engine.loaded_towers == {"vision"}
    engine.release_towers()
    assert engine.loaded_towers == frozenset()
    # The picture of the turn before is still there, its tower is not needed for it.
    assert list(engine.send("And?", GREEDY, 2)) and engine.loaded_towers == frozenset()
    # What does not fit changes nothing.
    with pytest.raises(ContextFull, match=f"context of {CONTEXT}") as error:
        engine.send("word " * (CONTEXT - 20), GREEDY, 3)
    assert error.value.to_drop and [t.prompt.text for t in engine.conversation.turns] == ["What?", "And?"]
    check_full_conversation(engine, CONTEXT, Attachments((picture,)))


def test_without_media_the_stock_runner_answers(chat: tuple[ExecuTorchChat, np.ndarray], lowered: Lower) -> None:
    engine, _ = chat
    with pytest.raises(EngineError, match="no audio tower"):
        list(engine.send("What?", GREEDY, 3, Attachments(audio=(Path("a.wav"),))))


def test_draw() -> None:
    logits, generator = np.array([0.0, 3.0, 2.9, -50.0], np.float32), np.random.default_rng(0)
    assert draw(logits, GREEDY, generator) == 1
    drawn = [draw(logits, Sampler(1.0, 2, 1.0), generator) for _ in range(200)]
    assert set(drawn) == {1, 2} and 70 < drawn.count(2) < 130
    assert {draw(logits, Sampler(1.0, 4, 0.5), generator) for _ in range(50)} == {1}

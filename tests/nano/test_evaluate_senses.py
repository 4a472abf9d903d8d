"""Held-out pictures and speech, and the scores of an engine's answers to them."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from torch import Tensor

from nano_training import heldout_senses
from nano_training.evaluate_senses import accuracy, figures, measure, word_error_rate, word_errors
from nano_training.evaluate_towers import count
from nano_training.heads import Heads
from nano_training.heldout_senses import Question
from nano_training.senses import Senses
from nano_training.voices import LONGEST, RATE, WORDS, heldout_voices


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    return heldout_senses.questions(scenes=100)


@pytest.mark.parametrize(
    ("said", "wanted", "errors"),
    [
        ("seven red", "seven red", 0),
        ("", "seven red", 2),
        ("seven", "seven red", 1),
        ("seven red left", "seven red", 1),
        ("seven left", "seven red", 1),
        ("red seven", "seven red", 2),
    ],
)
def test_word_errors_are_the_least_edits(said: str, wanted: str, errors: int) -> None:
    assert word_errors(said, wanted) == errors


def test_questions_are_complete_and_repeat(questions: list[Question]) -> None:
    kinds = [q.kind for q in questions]
    assert [kinds.count(kind) for kind in ("digit", "scene", "speech")] == [300, 100, 240]
    again = heldout_senses.questions(digits=3, scenes=2, clips=0)
    assert len(again) == 5
    for question in again:
        same = next(q for q in questions if q.name == question.name)
        assert same.image is not None and question.image is not None
        assert same.image.tobytes() == question.image.tobytes()


def test_digits_cover_every_class_and_canvases_differ(questions: list[Question]) -> None:
    own = [q for q in questions if q.kind == "digit"]
    assert {q.answer for q in own} == set("0123456789")
    assert len({q.image.size for q in own if q.image is not None}) > 100


def test_speech_is_of_heldout_voices(questions: list[Question]) -> None:
    own = [q for q in questions if q.kind == "speech"]
    assert {q.name.rsplit(" ", 1)[0] for q in own} == {voice.key for voice in heldout_voices()}
    for question in own:
        words = question.answer.split()
        assert set(words) <= set(WORDS) and 1 <= len(words) <= LONGEST
        assert question.sound is not None and question.sound.ndim == 1
        assert 0.4 * RATE < len(question.sound) < 4 * RATE


def test_a_perfect_and_a_deaf_engine(questions: list[Question]) -> None:
    perfect = measure(lambda question: question.answer + "\n", questions)
    assert set(figures(perfect).values()) == {0.0, 1.0}
    assert accuracy(perfect, "scene") == 1.0 and word_error_rate(perfect) == 0.0
    deaf = measure(lambda question: "" if question.sound is not None else question.answer, questions)
    assert accuracy(deaf, "digit") == 1.0 and word_error_rate(deaf) == 1.0
    assert word_error_rate(deaf, "flite") == 1.0


def test_figures_name_only_what_was_asked(questions: list[Question]) -> None:
    digits = [q for q in questions if q.kind == "digit"][:4]
    assert set(figures(measure(lambda question: "7", digits))) == {"digit accuracy"}


def test_files_are_small() -> None:
    files = [path for path in heldout_senses.folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 10_000 * heldout_senses.CLIPS


def test_towers_are_counted_by_their_classifiers() -> None:
    class Scripted(Senses):
        def __init__(self) -> None:
            pass

        def see(self, pixels: Tensor) -> Tensor:
            assert pixels.shape == (1, 3, 256, 256)
            return torch.ones(1, 4, 8)

    heads = Heads(8)
    with torch.no_grad():
        heads.classes.weight.zero_()
        heads.classes.bias.copy_(torch.eye(len(heads.classes.bias))[7])
    picture = Image.new("RGB", (90, 60))
    asked = [Question("digit", "", "Which?", answer, image=picture) for answer in ("7", "7", "1")]
    assert count(Scripted(), heads, asked) == {"digit": [2, 3]}

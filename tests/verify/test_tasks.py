"""A compile of nano asks what it lowered questions whose answers are known, and counts the right ones."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from g3n_compiler.checkpoint.embedded import comes_from_nano
from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.checkpoint.tokenizer import TextTokenizer, load_tokenizer
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.nano.tasks import END, accuracy, answer, first_of_each, read_examples
from g3n_compiler.source import Source
from g3n_compiler.verify.tasks import EXAMPLES, task_scores
from tests.conftest import TinyModel


class Knows:
    """Says the right answer to every question but those of ``wrong``, and talks on after its turn."""

    def __init__(self, whole: TextTokenizer, wrong: str = "") -> None:
        self._tokenizer = tokenizer = whole.loaded()
        self._answers = {
            (tokenizer.bos_id, *tokenizer.encode(e.prompt)): f"{e.expected}{'?' * (e.task == wrong)}{END} and on"
            for e in read_examples()
            if not e.media
        }

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        return self._tokenizer.encode(self._answers[tuple(ids)])[:count]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return load_tokenizer(checkpoint_dir(), gemma3n_config(Source.open(checkpoint_dir()).text))


def scores(tokenizer: TextTokenizer, model: Knows, context: int = 4096) -> dict[str, tuple[int, int]]:
    job: Any = SimpleNamespace(files={}, tokenizer=tokenizer, context=context)
    backend: Any = SimpleNamespace(runtime="litert", open_models=lambda files: iter([("decode", model)]))
    return {score.task: (score.right, score.examples) for score in task_scores(job, backend)}


def test_right_answers_count(tokenizer: TextTokenizer) -> None:
    found = scores(tokenizer, Knows(tokenizer))
    assert set(found) == {e.task for e in read_examples() if not e.media}
    assert set(found.values()) == {(EXAMPLES, EXAMPLES)}


def test_wrong_answers_do_not(tokenizer: TextTokenizer) -> None:
    found = scores(tokenizer, Knows(tokenizer, wrong="json"))
    assert found.pop("json") == (0, EXAMPLES)
    assert set(found.values()) == {(EXAMPLES, EXAMPLES)}


def test_what_does_not_fit_the_context_is_left_out(tokenizer: TextTokenizer) -> None:
    assert {"lookup-1500", "lookup-300"} & set(scores(tokenizer, Knows(tokenizer), context=300)) == set()


def test_an_answer_that_goes_on_is_wrong(tokenizer: TextTokenizer) -> None:
    example = next(e for e in read_examples() if e.task == "sum")
    longer = tokenizer.encode(example.expected + " It is. It is. It is.")
    said = answer(example, tokenizer, lambda ids, count: longer[:count])
    assert said.startswith(example.expected) and accuracy([example], [said]) == {"sum": 0.0}


def test_nano_is_known_by_its_bytes(tiny: TinyModel) -> None:
    nano, other = Checkpoint(checkpoint_dir()), Checkpoint(tiny.directory)
    assert comes_from_nano(nano) and not comes_from_nano(other)
    nano.close()
    other.close()


def test_the_first_of_each_keep_their_order() -> None:
    kept = read_examples()
    few = first_of_each(kept, 2)
    assert [e for e in kept if e in few] == few and len(few) == 2 * len({e.task for e in kept})

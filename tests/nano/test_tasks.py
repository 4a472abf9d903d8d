"""Nano's tasks: right answers, held-out words that training never shows, and training that equals the library."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import AutoProcessor

from g3n_compiler.nano import checkpoint_dir, heldout_path
from g3n_compiler.nano.tasks import END, Example, first_of_each, read_examples, write_examples
from nano_training import corpus, heldout_senses, towers
from nano_training.elastic import EMBEDDING, FULL, HALF
from nano_training.loss import SOFTCAP
from nano_training.senses import SOFT_TOKENS, Senses
from nano_training.tasks import tools
from nano_training.tasks.curriculum import SLOTS, TOKENS, Curriculum
from nano_training.tasks.encoding import Rows, encode, stack
from nano_training.tasks.filler import Filler
from nano_training.tasks.learner import Learner, Progress
from nano_training.tasks.media import Galleries, Gallery, ask, load, save, says
from nano_training.tasks.mixture import TASKS, draw
from nano_training.tasks.words import Words
from nano_training.tasks.write import COUNT, heldout_examples

TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(checkpoint_dir() / "tokenizer.json"))


@pytest.fixture(scope="module")
def filler(tokenizer: Tokenizer) -> Filler:
    return Filler.of(tokenizer, corpus.read_documents(heldout_path()))


@pytest.fixture(scope="module")
def galleries() -> Galleries:
    generator = torch.Generator().manual_seed(0)
    return {
        "digit": Gallery(torch.randn(3, SOFT_TOKENS["image"], 128, generator=generator).half(), ["7", "1", "4"]),
        "scene": Gallery(torch.randn(2, SOFT_TOKENS["image"], 128, generator=generator).half(), ["A star.", "A ring."]),
        "speech": Gallery(torch.randn(2, SOFT_TOKENS["audio"], 128, generator=generator).half(), ["red go", "one"]),
    }


@pytest.fixture(scope="module")
def senses() -> Senses:
    return Senses(towers.load(checkpoint_dir()))


@pytest.fixture(scope="module")
def learner(senses: Senses, galleries: Galleries) -> Learner:
    return Learner(senses, galleries, torch.arange(9000) % 4000, 0.02, False)


def test_the_package_holds_what_the_generators_make() -> None:
    kept = read_examples()
    assert {task: sum(e.task == task for e in kept) for task in {e.task for e in kept}} == dict.fromkeys(
        (*TASKS, "two-pictures"), COUNT
    )
    assert first_of_each(kept, 4) == heldout_examples(4)


def test_examples_survive_a_file(tmp_path: Path) -> None:
    examples = first_of_each(read_examples(), 2)
    write_examples(examples, tmp_path / "tasks.jsonl")
    assert read_examples(tmp_path / "tasks.jsonl") == examples


@pytest.mark.parametrize("task", TASKS)
def test_training_never_shows_what_is_held_out(task: str, filler: Filler) -> None:
    secret, shown = set(Words("heldout").pools[0]), set[str]()
    words = Words("train")
    for seed in range(150):
        example = draw(task, words, Filler(filler.tokenizer, ["so it was "]), Random(seed))
        shown |= set(re.findall("[a-z]+", " ".join(text for text, _ in example.pieces()).lower()))
    assert not secret & shown


def right_answer(example: Example) -> str:
    """The answer, worked out again from what the user says."""
    asked = example.turns[-1][0]
    facts = dict(re.findall(r"[Tt]he ([a-z]+) is ([a-z]+|\d+)[.,]", example.turns[0][0]))
    mine = dict(re.findall(r"My ([a-z]+) is ([a-z]+|\d+)\.", " ".join(user for user, _ in example.turns)))
    numbers = [int(n) for n in re.findall(r"\d+", asked)]
    known: dict[str, Callable[[], str]] = {
        "lookup": lambda: (key := re.findall(r"What is the ([a-z]+)\?", asked)[-1]) and f"The {key} is {facts[key]}.",
        "recall": lambda: (key := re.findall(r"What is my ([a-z]+)\?", asked)[0]) and f"Your {key} is {mine[key]}.",
        "reverse": lambda: f"Reversed: {' '.join(reversed(asked.removeprefix('Reverse: ').split()))}",
        "sort": lambda: f"Sorted: {' '.join(map(str, sorted(numbers)))}",
        "sum": lambda: f"It is {sum(numbers)}.",
    }
    return known[example.task.split("-")[0]]()


@pytest.mark.parametrize(
    "task", [t for t in TASKS if t.split("-")[0] in ("lookup", "recall", "reverse", "sort", "sum")]
)
def test_the_expected_answers_are_right(task: str) -> None:
    for example in [e for e in read_examples() if e.task == task]:
        assert example.expected == right_answer(example), example


def test_a_replaced_word_is_all_that_changes() -> None:
    for example in [e for e in read_examples() if e.task == "copy"]:
        head, _, text = example.turns[0][0].partition("\n")
        if match := re.fullmatch(r"Repeat this with (\w+) instead of (\w+):", head):
            new, old = match.groups()
            assert example.expected == re.sub(rf"\b{old}\b", new, text) != text
        else:
            assert example.expected == text


def test_json_and_calls_hold_what_was_said() -> None:
    for example in read_examples():
        if example.task == "json":
            fields, said = json.loads(example.expected), example.turns[0][0]
            assert all(str(value) in said for value in fields.values()) and {"name"} < set(fields)
        if example.task == "tool-call":
            called = re.fullmatch(r"```tool_code\n(\w+)\((.*)\)\n```", example.expected)
            assert called and any(f"def {called[1]}(" in tool for tool in example.tools)
            assert all(value in example.turns[0][0] for value in re.findall(r'="?([^",)]+)', called[2]))


def test_tools_are_declared_as_the_engine_declares_them() -> None:
    """The form that LiteRT-LM's own test ``Gemma3DataProcessorTest.FormatTools`` expects."""
    tool = tools.Tool("get_weather", "Gets weather information.", (("location", "str", "Weather location."),))
    assert tools.declare(tool) == (
        'def get_weather(\n    location: str,\n) -> dict:\n  """Gets weather information.\n\n'
        '  Args:\n    location: Weather location.\n  """\n'
    )
    assert tools.call(tool, {"location": "Paris", "days": 2}) == (
        '```tool_code\nget_weather(location="Paris", days=2)\n```'
    )
    assert tools.output({"location": "Paris", "temperature": 20}) == (
        '```tool_outputs\n{"location": "Paris", "temperature": 20}\n```'
    )


def test_what_is_learnt_is_what_the_model_says(tokenizer: Tokenizer) -> None:
    for example in first_of_each(read_examples(), 3):
        encoded = encode(example, tokenizer)
        own = [token for token, learnt in zip(encoded.tokens, encoded.learnt, strict=True) if learnt]
        answers = "".join(f"{model}{END}" for _, model in example.turns)
        assert tokenizer.decode(own, skip_special_tokens=False) == answers
        begin, end = encoded.spans[-1]
        assert tokenizer.decode(encoded.tokens[begin:end], skip_special_tokens=False) == f"{example.expected}{END}"


def test_prompts_with_pictures_and_sounds_are_the_processors(tokenizer: Tokenizer) -> None:
    processor: Any = AutoProcessor.from_pretrained(checkpoint_dir())
    questions = heldout_senses.questions(2, 0, 1)
    for task, kinds in (("two-pictures", ("digit", "digit")), ("heard-word", ("speech",))):
        example = Example(task, (("Which one?", "7"),), media=tuple((kind, i) for i, kind in enumerate(kinds)))
        images = [q.images[0] for q in questions if q.kind == "digit"] if "digit" in kinds else None
        sounds = [q.sounds[0] for q in questions if q.kind == "speech"] if "speech" in kinds else None
        parts = [{"type": "audio" if kind == "speech" else "image"} for kind in kinds]
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "Which one?"}]}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True).removeprefix("<bos>")
        wanted = processor(text=text, images=images, audio=sounds, return_tensors="pt")["input_ids"][0].tolist()
        encoded = encode(example, tokenizer)
        assert encoded.tokens[: encoded.spans[-1][0]] == wanted


@pytest.mark.parametrize("part", [FULL, HALF], ids=["whole", "half"])
def test_several_examples_in_a_row_are_the_library_models(
    part: Any, learner: Learner, senses: Senses, tokenizer: Tokenizer
) -> None:
    """Neither neighbours nor padding change an example, and only its answer positions are computed."""
    chosen = [e for e in first_of_each(read_examples(), 1) if e.task in ("copy", "recall", "lookup", "sum")]
    rows = stack([[encode(e, tokenizer) for e in half] for half in (chosen[:2], chosen[2:])], 200, 40)
    with torch.no_grad():
        hidden = learner.hidden(rows, part, learner._plain)
    for r, row in enumerate(rows.examples):
        slot = 0
        for encoded in row:
            ours = hidden.view(2, 40, -1)[r, slot : slot + encoded.answers]
            alone = stack([[encoded]], len(encoded.tokens), encoded.answers)
            wanted = by_library(senses, alone) if part is FULL else learner.hidden(alone, part, learner._plain)
            torch.testing.assert_close(ours, wanted, atol=TOLERANCE, rtol=TOLERANCE)
            slot += encoded.answers


def by_library(senses: Senses, rows: Rows) -> torch.Tensor:
    with torch.no_grad():
        states: torch.Tensor = senses.model.model.language_model(input_ids=rows.tokens, use_cache=False)[0]
    return states[0, rows.places[0]]


def test_soft_tokens_take_the_placeholders_place(learner: Learner, tokenizer: Tokenizer, galleries: Galleries) -> None:
    example = ask("two-pictures", says(galleries), Random(1))
    encoded = encode(example, tokenizer)
    rows = stack([[encoded]], len(encoded.tokens), encoded.answers)
    made = learner._embeddings(rows)[0]
    places = [i for i, token in enumerate(encoded.tokens) if token == 4097]
    wanted = torch.cat([galleries[kind].soft[at].float() for kind, at in example.media])
    assert torch.equal(made[places], wanted)


def test_steps_of_every_kind_fit(tokenizer: Tokenizer, filler: Filler, galleries: Galleries) -> None:
    curriculum = Curriculum(tokenizer, filler, galleries)
    shapes, tasks = set(), set()
    for step in range(60):
        rows = curriculum.lesson(Random(step), 0.5)
        if rows is not None:
            shapes.add(tuple(rows.tokens.shape))
            assert rows.tokens.numel() == TOKENS and rows.places.numel() == SLOTS
            tasks |= {encoded.example.task for row in rows.examples for encoded in row}
            learnt = sum(encoded.answers for row in rows.examples for encoded in row)
            assert int((rows.targets >= 0).sum()) == learnt
    assert shapes == {(8, 256), (4, 512), (2, 1024), (1, 2048)}
    assert set(TASKS) < tasks


def test_only_the_text_model_learns_and_a_run_resumes(
    learner: Learner, tokenizer: Tokenizer, filler: Filler, galleries: Galleries, tmp_path: Path
) -> None:
    curriculum = Curriculum(tokenizer, filler, galleries)
    lesson = curriculum.lesson(Random(1), 0.5)
    assert lesson is not None
    before = {name: w.detach().clone() for name, w in learner.weights.items()}
    learner.step(lesson, 1e-3, 0)
    learner.save(tmp_path / "state.pt", Progress(1, 2.0))
    learner.step(lesson, 1e-3, 1)
    after = {name: w.detach().clone() for name, w in learner.weights.items()}
    assert any(not torch.equal(before[name], after[name]) for name in after)
    assert not any("tower" in name or "embed_vision" in name for name in learner.weights)
    assert learner.restore(tmp_path / "state.pt") == Progress(1, 2.0)
    learner.step(lesson, 1e-3, 1)
    again = {name: w.detach().clone() for name, w in learner.weights.items()}
    with torch.no_grad():  # the model is shared with other tests
        for name, weight in learner.weights.items():
            weight.copy_(before[name])
    assert all(torch.equal(after[name], again[name]) for name in after)


def test_the_share_of_right_answers_is_that_of_greedy_decoding(learner: Learner, tokenizer: Tokenizer) -> None:
    example = next(e for e in read_examples() if e.task == "sum")
    encoded = encode(example, tokenizer)
    rows = stack([[encoded]], len(encoded.tokens), encoded.answers)
    table = learner.weights[EMBEDDING]
    with torch.no_grad():
        hidden = learner.hidden(rows, FULL, learner._plain)
        likeliest = (torch.tanh(F.linear(hidden, table) / SOFTCAP)).argmax(-1)
    assert learner.right(rows) == {"sum": float(torch.equal(likeliest, rows.targets[0]))}


def test_galleries_survive_a_file(galleries: Galleries, tmp_path: Path) -> None:
    save(galleries, tmp_path / "galleries.pt")
    again = load(tmp_path / "galleries.pt")
    assert all(torch.equal(again[kind].soft, g.soft) and again[kind].says == g.says for kind, g in galleries.items())

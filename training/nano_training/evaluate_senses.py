"""Measure how well an engine handles images and sound: ``python -m nano_training.evaluate_senses [DIR]`` for the
library in fp32.

To measure any other engine, pass :func:`measure` a function from a question to the text of its greedy answer.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoProcessor, Gemma3nForConditionalGeneration

from g3n_compiler.nano import checkpoint_dir
from nano_training import heldout_senses
from nano_training.heldout_senses import Question

_MOST_TOKENS = 24

Engine = Callable[[Question], str]


@dataclass(frozen=True)
class Result:
    """One answered question."""

    question: Question
    answer: str


def word_errors(said: str, wanted: str) -> int:
    """The least number of substituted, missing and added words that turn ``wanted`` into ``said``."""
    left, right = wanted.split(), said.split()
    row = list(range(len(right) + 1))
    for i, word in enumerate(left, 1):
        above, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (word != other))
    return row[-1]


def measure(engine: Engine, questions: Sequence[Question]) -> list[Result]:
    """Every answer of ``engine``, trimmed."""
    return [Result(question, engine(question).strip()) for question in questions]


def accuracy(results: Sequence[Result], kind: str) -> float:
    """Share of the questions of ``kind`` that are answered exactly."""
    own = [r for r in results if r.question.kind == kind]
    return sum(r.answer == r.question.answer for r in own) / len(own)


def word_error_rate(results: Sequence[Result], voice: str = "") -> float:
    """Word errors of the transcripts per spoken word, for the voices whose name begins with ``voice``."""
    own = [r for r in results if r.question.kind == "speech" and r.question.name.startswith(voice)]
    errors = sum(word_errors(r.answer, r.question.answer) for r in own)
    return errors / sum(len(r.question.answer.split()) for r in own)


def figures(results: Sequence[Result]) -> dict[str, float]:
    """Accuracies and word error rates by name, for the kinds in ``results``."""
    kinds = {r.question.kind for r in results}
    found = {f"{kind} accuracy": accuracy(results, kind) for kind in ("digit", "scene") if kind in kinds}
    if "speech" in kinds:
        found["word error rate"] = word_error_rate(results)
        for engine in sorted({r.question.name.split(":")[0] for r in results if r.question.kind == "speech"}):
            found[f"word error rate, {engine}"] = word_error_rate(results, engine)
    return found


class Reference:
    """The checkpoint in ``folder``, run by ``transformers`` in fp32 with eager attention."""

    def __init__(self, folder: Path) -> None:
        self._processor: Any = AutoProcessor.from_pretrained(folder)
        model = Gemma3nForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager"
        )
        self._model: Any = model.eval()

    def inputs(self, text: str, images: Sequence[Any] = (), sounds: Sequence[Any] = ()) -> Any:
        """The processor's output for a user's turn: token ids, and pixels or log-mel features."""
        content = [
            *[{"type": "image"}] * len(images),
            *[{"type": "audio"}] * len(sounds),
            {"type": "text", "text": text},
        ]
        messages = [{"role": "user", "content": content}]
        prompt = self._processor.apply_chat_template(messages, add_generation_prompt=True)
        # the tokenizer adds the <bos> that the template spells out
        prompt = prompt.removeprefix("<bos>")
        given = {"images": list(images)} if images else {}
        given |= {"audio": list(sounds)} if sounds else {}
        return self._processor(text=prompt, return_tensors="pt", **given)

    def answer(self, text: str, images: Sequence[Any] = (), sounds: Sequence[Any] = ()) -> str:
        """The greedy answer."""
        inputs = self.inputs(text, images, sounds)
        with torch.no_grad():
            output = self._model.generate(**inputs, max_new_tokens=_MOST_TOKENS, do_sample=False)
        said = output[0, inputs["input_ids"].shape[1] :]
        return str(self._processor.tokenizer.decode(said, skip_special_tokens=True))

    def greedy(self, ids: Sequence[int], count: int) -> list[int]:
        """Up to ``count`` greedy tokens after the text ``ids``, with the end of turn."""
        with torch.no_grad():
            output = self._model.generate(torch.tensor([list(ids)]), max_new_tokens=count, do_sample=False)
        return [int(token) for token in output[0, len(ids) :]]

    def __call__(self, question: Question) -> str:
        return self.answer(question.text, question.images, question.sounds)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True), default=checkpoint_dir())
@click.option("--digits", default=heldout_senses.DIGITS, show_default=True, help="only the first so many")
@click.option("--scenes", default=heldout_senses.SCENES, show_default=True, help="only the first so many")
@click.option("--clips", default=heldout_senses.CLIPS, show_default=True, help="only the first so many")
@click.option("--wrong", is_flag=True, help="list the wrong answers")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of a table")
@click.option("--threads", default=2, show_default=True)
def main(folder: Path, digits: int, scenes: int, clips: int, wrong: bool, as_json: bool, threads: int) -> None:
    """Held-out accuracy and word error rate of the checkpoint in FOLDER (the embedded one if left out)."""
    torch.set_num_threads(threads)
    results = measure(Reference(folder), heldout_senses.questions(digits, scenes, clips))
    found, console = figures(results), Console()
    if as_json:
        console.print_json(json.dumps(found))
    else:
        table = Table("what", "value", title=f"{len(results)} held-out questions")
        for what, value in found.items():
            table.add_row(what, f"{value:.2%}")
        console.print(table)
    if wrong:
        for r in results:
            if r.answer != r.question.answer:
                console.print(f"{r.question.name}: {r.question.answer!r}, answered {r.answer!r}", markup=False)


if __name__ == "__main__":
    main()

"""How many of nano's held-out tasks each bundle solves, in each runtime, beside ``transformers`` in float32.

    python benchmarks/tasks.py exported/nano-host-fp32 exported/nano-host-int8 exported/nano-host-int4 [--examples 200]

Every answer is greedy and counts if it is the expected one to the letter. Text goes through the graphs of the bundle
(prefill, then decode), pictures and sounds through its stock engine, as files. What has been asked is kept in
``--kept``, so that the script can be stopped and started again.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import soundfile
import torch
from lab import PLANTED, recipe_label, require_nano
from rich.console import Console

from g3n_compiler.checkpoint.reader import SINGLE, file_sha256
from g3n_compiler.checkpoint.tokenizer import LoadedTokenizer, load_tokenizer
from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.lower.registry import BACKENDS
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.nano import checkpoint_dir, tasks_path
from g3n_compiler.nano.tasks import Example, accuracy, answer, first_of_each, read_examples
from g3n_compiler.source import TEXT, Source
from g3n_runtime.bundle import Bundle, open_bundle
from g3n_runtime.chat import GREEDY, Attachments
from g3n_runtime.engines import open_engine
from nano_training import heldout_senses
from nano_training.evaluate_senses import Reference
from nano_training.voices import RATE

MOST_TOKENS = 24
"""Of an answer about a picture or a sound."""

Answers = dict[int, str]
"""By the number of the example among all held-out ones, however many of them are asked."""
Ask = Callable[[Example], str]


class Media:
    """The held-out pictures and sounds as files in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        own = heldout_senses.questions(scenes=0)
        self._by_kind = {kind: [q for q in own if q.kind == kind] for kind in ("digit", "speech")}

    def attached(self, example: Example) -> Attachments:
        files: dict[str, list[Path]] = {"digit": [], "speech": []}
        for kind, index in example.media:
            question = self._by_kind[kind][index]
            path = self._folder / f"{kind}-{index}.{'png' if kind == 'digit' else 'wav'}"
            if question.image is not None and not path.exists():
                question.image.save(path)
            elif question.sound is not None and not path.exists():
                soundfile.write(path, question.sound, RATE, subtype="FLOAT")
            files[kind].append(path)
        return Attachments(images=tuple(files["digit"]), audio=tuple(files["speech"]))

    def inputs(self, example: Example) -> tuple[list[object], list[object]]:
        """Pictures and sounds as the library's processor takes them."""
        shown = [self._by_kind[kind][index] for kind, index in example.media]
        return [image for q in shown for image in q.images], [sound for q in shown for sound in q.sounds]


def reference(tokenizer: LoadedTokenizer, media: Media) -> Ask:
    """The checkpoint in ``transformers``."""
    model = Reference(checkpoint_dir())

    def ask(example: Example) -> str:
        if example.media:
            return model.answer(example.turns[0][0], *media.inputs(example)).strip()
        return answer(example, tokenizer, model.greedy)

    return ask


def by_graphs(bundle: Bundle, runtime: str, tokenizer: LoadedTokenizer) -> Ask:
    """The text graphs of a bundle."""
    _, model = next(BACKENDS[runtime]().open_models(bundle.paths))  # type: ignore[index]
    return lambda example: answer(example, tokenizer, model.greedy)


@contextmanager
def by_engine(bundle: Bundle, runtime: str, media: Media) -> Iterator[Ask]:
    """The stock engine of a bundle, which takes pictures and sounds as files."""
    engine = open_engine(bundle, runtime)

    def ask(example: Example) -> str:
        said = "".join(engine.send(example.turns[0][0], GREEDY, MOST_TOKENS, media.attached(example)))
        engine.reset()
        return said.strip()

    yield ask
    engine.close()


class Kept:
    """Answers in a file, by who gave them: bundles and checkpoints go by their hashes, so none are mixed up."""

    def __init__(self, path: Path) -> None:
        self._path, self._asked = path, file_sha256(tasks_path())[:16]
        self._answers: dict[str, dict[str, str]] = json.loads(path.read_text("utf-8")) if path.is_file() else {}

    def complete(self, who: str, examples: Mapping[int, Example], ask: Ask) -> None:
        """Ask what is not yet answered."""
        own = self._answers.setdefault(f"{who}/{self._asked}", {})
        for number, example in examples.items():
            if str(number) not in own:
                own[str(number)] = ask(example)
                if len(own) % 100 == 0:
                    self._save()
        self._save()

    def answers(self, who: str) -> Answers:
        return {int(number): said for number, said in self._answers.get(f"{who}/{self._asked}", {}).items()}

    def _save(self) -> None:
        beside = self._path.with_suffix(".partial")
        beside.write_text(json.dumps(self._answers), "utf-8")
        beside.replace(self._path)


def table(examples: Mapping[int, Example], answers: Mapping[str, Answers]) -> Iterator[str]:
    """Accuracy by task, a column for each of ``answers``."""
    scores = {who: _accuracy(examples, given) for who, given in answers.items()}
    yield f"| task | {' | '.join(answers)} |"
    yield "|---" * (len(answers) + 1) + "|"
    for task in dict.fromkeys(example.task for example in examples.values()):
        cells = [f"{100 * scores[who][task]:.1f}" if task in scores[who] else "" for who in answers]
        yield f"| {task} | {' | '.join(cells)} |"


def _accuracy(examples: Mapping[int, Example], given: Answers) -> dict[str, float]:
    asked = [number for number in examples if number in given]
    return accuracy([examples[n] for n in asked], [given[n] for n in asked])


def same(one: Answers, other: Answers) -> str:
    """How many answers are equal."""
    both = one.keys() & other.keys()
    equal = sum(one[n] == other[n] for n in both)
    return f"{equal} of {len(both)} ({100 * equal / max(1, len(both)):.1f}%)"


def report(opened: Sequence[Bundle], count: int, kept: Path, console: Console) -> None:
    """Ask ``count`` examples of each task of the reference and of each bundle, and print the table."""
    source = Source.open(checkpoint_dir(), modalities=(TEXT,))
    tokenizer = load_tokenizer(source.directory, gemma3n_config(source.text)).loaded()
    every = read_examples()
    chosen = set(first_of_each(every, count))
    examples = {number: example for number, example in enumerate(every) if example in chosen}
    text = {n: e for n, e in examples.items() if not e.media}
    shown = {n: e for n, e in examples.items() if e.media}
    given = Kept(kept)
    with tempfile.TemporaryDirectory() as folder:
        media, known = Media(Path(folder)), {"float32, transformers": source.checkpoint.sha256()[SINGLE]}
        given.complete(known["float32, transformers"], examples, reference(tokenizer, media))
        for bundle in opened:
            for runtime in bundle.runtimes:
                who = f"{bundle.manifest['provenance']['fingerprint']}/{runtime}"
                known[f"{recipe_label(bundle)}, {runtime}"] = who
                with quiet_toolchains():
                    given.complete(who, text, by_graphs(bundle, runtime, tokenizer))
                    if {"vision", "audio"} <= set(bundle.manifest["model"]["modalities"]):
                        with by_engine(bundle, runtime, media) as ask:
                            given.complete(who, shown, ask)
    answers = {name: given.answers(who) for name, who in known.items()}
    console.print(f"{count} held-out examples of each task; right answers in percent\n")
    for line in table(examples, answers):
        console.print(line, soft_wrap=True)
    for bundle in opened:
        label = recipe_label(bundle)
        pair = [answers[f"{label}, {runtime}"] for runtime in bundle.runtimes]
        if len(pair) == 2:
            console.print(f"\n{label}: both runtimes give the same answer to {same(*pair)}", soft_wrap=True)


@click.command()
@click.argument("bundles", nargs=-1, type=click.Path(path_type=Path))
@click.option("--examples", "count", default=200, show_default=True, help="Of each task.")
@click.option("--kept", type=click.Path(path_type=Path), default=Path("tasks-answers.json"), show_default=True)
@click.option("--threads", default=2, show_default=True, help="Of the reference.")
@PLANTED
@reports_errors
def main(bundles: Sequence[Path], count: int, kept: Path, threads: int, planted: bool) -> None:
    """Print the table for BUNDLES of nano."""
    torch.set_num_threads(threads)
    opened = [open_bundle(bundle) for bundle in bundles]
    for bundle in () if planted else opened:
        require_nano(bundle)
    report(opened, count, kept, Console(width=200, highlight=False))


if __name__ == "__main__":
    main()

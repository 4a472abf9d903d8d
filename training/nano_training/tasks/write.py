"""Write the held-out tasks into the package: ``python -m nano_training.tasks.write``.

Their words, numbers, lengths and prose are those that training never shows (:mod:`nano_training.tasks.words`), their
pictures and sounds the package's held-out ones.
"""

from random import Random

import click
from tokenizers import Tokenizer

from g3n_compiler.nano import checkpoint_dir, heldout_path, tasks_path
from g3n_compiler.nano.tasks import Example, write_examples
from nano_training import corpus, heldout_senses
from nano_training.tasks.filler import Filler
from nano_training.tasks.media import ask
from nano_training.tasks.mixture import TASKS, draw
from nano_training.tasks.words import Words

COUNT = 200
"""Examples of each task."""

MEDIA = ("two-pictures",)
"""Those about pictures and sounds that :mod:`nano_training.evaluate_senses` does not measure."""


def heldout_examples(count: int = COUNT) -> list[Example]:
    """``count`` different examples of each task."""
    tokenizer = Tokenizer.from_file(str(checkpoint_dir() / "tokenizer.json"))
    filler, words = Filler.of(tokenizer, corpus.read_documents(heldout_path())), Words("heldout")
    shown = heldout_senses.says()
    made: list[Example] = []
    for task in (*TASKS, *MEDIA):
        rng, own = Random(f"heldout/{task}"), dict[Example, None]()
        while len(own) < count:
            own[ask(task, shown, rng) if task in MEDIA else draw(task, words, filler, rng)] = None
        made += own
    return made


@click.command()
def main() -> None:
    """Write the held-out tasks."""
    examples = heldout_examples()
    write_examples(examples, tasks_path())
    click.echo(f"{len(examples)} examples: {tasks_path()}")


if __name__ == "__main__":
    main()

"""Measure the towers alone on the held-out questions: ``python -m nano_training.evaluate_towers STATE``.

The classifiers from training read the soft tokens, without the text model. If these figures are good but those of
``evaluate_senses`` are not, the text model does not yet understand its towers.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from transformers.models.gemma3n.feature_extraction_gemma3n import Gemma3nAudioFeatureExtractor

from g3n_compiler.nano import checkpoint_dir
from nano_training import heldout_senses, towers
from nano_training.evaluate_senses import word_errors
from nano_training.heads import Heads
from nano_training.heldout_senses import Question
from nano_training.lessons import to_pixels
from nano_training.senses import Senses
from nano_training.senses_optimizer import warm_up

Counts = dict[str, list[int]]
"""Correct answers (for words: errors) and all answers, by what is counted."""


def count(senses: Senses, heads: Heads, questions: Sequence[Question]) -> Counts:
    """Completely correct digits and scenes, and word errors of the most likely path, with silence removed."""
    extract = Gemma3nAudioFeatureExtractor()
    counts: Counts = defaultdict(lambda: [0, 0])
    for question in questions:
        with torch.no_grad():
            if question.image is not None:
                soft = senses.see(to_pixels(question.image, towers.IMAGE_SIZE)[None])
                right, all_ = heads.picture_loss(soft, [question.answer])[1], 1
            else:
                mel = torch.from_numpy(extract(question.sound, pad_to_multiple_of=None)["input_features"][0]).float()
                soft, _ = senses.hear(mel[None], torch.ones(1, len(mel), dtype=torch.bool))
                right = word_errors(" ".join(heads.transcribe(soft[0])), question.answer)
                all_ = len(question.answer.split())
        counts[question.kind][0] += int(right)
        counts[question.kind][1] += all_
    return dict(counts)


@click.command()
@click.argument("state", type=click.Path(path_type=Path, exists=True))
@click.option("--digits", default=heldout_senses.DIGITS, show_default=True, help="only the first so many")
@click.option("--scenes", default=heldout_senses.SCENES, show_default=True, help="only the first so many")
@click.option("--clips", default=heldout_senses.CLIPS, show_default=True, help="only the first so many")
@click.option("--threads", default=2, show_default=True)
def main(state: Path, digits: int, scenes: int, clips: int, threads: int) -> None:
    """Held-out accuracy and word error rate of the classifiers in STATE, the state.pt of ``train_senses``.

    A run with one sense has not learnt the other, which is asked too: leave it out with --digits 0 --scenes 0 or
    --clips 0.
    """
    torch.set_num_threads(threads)
    model = towers.build(towers.text_weights(checkpoint_dir()))
    senses, heads = Senses(model), Heads(model.config.text_config.hidden_size)
    warm_up(state, senses, heads)
    table = Table("what", "value", "of")
    names = {"digit": "digits right", "scene": "scenes wholly right", "speech": "word errors"}
    for kind, (found, all_) in count(senses, heads, heldout_senses.questions(digits, scenes, clips)).items():
        table.add_row(names[kind], f"{found / all_:.1%}", str(all_))
    Console().print(table)


if __name__ == "__main__":
    main()

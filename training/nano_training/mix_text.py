"""Interpolate between two text models: ``python -m nano_training.mix_text BEFORE AFTER OUT --share 0.7``.

The weights of a model and of one trained further from it can be averaged; the mean keeps most of what both know
(Wortsman et al., "Robust fine-tuning of zero-shot models", 2022). nano's text model learnt to answer from images and
sounds and lost a little of its English, so it is moved part of the way back.
"""

import shutil
from pathlib import Path

import click
import torch
from safetensors.torch import load_file, save_file

from nano_training.towers import text_weights


def mix(before: Path, after: Path, out: Path, share: float) -> int:
    """Copy the multimodal checkpoint ``after`` to ``out``, with each text tensor ``share`` of the way from
    ``before``'s.

    Returns the number of text tensors.

    Raises:
        ValueError: the checkpoints do not have the same ones.
        FileExistsError: ``out`` is there already.
    """
    old, tensors = text_weights(before), load_file(after / "model.safetensors")
    own = text_weights(after)
    if old.keys() != own.keys():
        raise ValueError(
            f"{before} and {after} differ in text tensors, for example {sorted(old.keys() ^ own.keys())[0]}"
        )
    shutil.copytree(after, out)
    for name, start in old.items():
        tensors[name] = torch.lerp(start.float(), own[name].float(), share).bfloat16().contiguous()
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # the writer makes it readable by its owner only
    return len(old)


@click.command()
@click.argument("before", type=click.Path(path_type=Path, exists=True))
@click.argument("after", type=click.Path(path_type=Path, exists=True))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--share", type=click.FloatRange(0, 1), default=0.7, show_default=True, help="of the way to AFTER")
def main(before: Path, after: Path, out: Path, share: float) -> None:
    """Write to OUT the checkpoint AFTER with a text model between BEFORE's and its own."""
    click.echo(f"{mix(before, after, out, share)} text tensors: {out}")


if __name__ == "__main__":
    main()

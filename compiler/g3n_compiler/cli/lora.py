"""``g3n-lora``: a PEFT adapter as a file that LiteRT-LM adds to a bundle while it runs."""

from __future__ import annotations

from pathlib import Path

import click

from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.cli.options import QUIET, VERBOSE, CheckpointName, FileName, Verb
from g3n_compiler.cli.show import progress_steps, show
from g3n_runtime.bundle import open_bundle


@click.command(
    cls=Verb,
    examples=[
        ("g3n-compile --runtime litert --lora-rank 16", "first, a bundle that takes adapters"),
        ("g3n-lora exported/nano-host-int4-lora16 ~/my-adapter --out mine.tflite", "the adapter for it"),
        ('g3n-run exported/nano-host-int4-lora16 --lora mine.tflite "Reverse: a b c"', "an answer with it"),
    ],
)
@click.argument("bundle", type=FileName())
@click.argument("adapter", type=CheckpointName())
@click.option(
    "--checkpoint",
    type=CheckpointName(),
    help="The bundle's: a folder, or owner/name[@revision] on the hub [default: its size's].",
)
@click.option("--out", type=FileName(), required=True, help="File to write, which apps want to end in .tflite.")
@QUIET
@VERBOSE
@reports_errors
def main(bundle: Path, adapter: str, checkpoint: str | None, out: Path, quiet: bool, verbose: bool) -> None:
    """Write the PEFT ADAPTER (a folder, or its name on the hub) as a file that LiteRT-LM adds to BUNDLE.

    BUNDLE was compiled with --lora-rank. The file is for this bundle, and for others of the same checkpoint and rank
    whose weights were rotated alike.
    """
    opened = open_bundle(bundle)
    from g3n_compiler.checkpoint.hub_id import named_by  # toolchains, which --help needs not
    from g3n_compiler.cli.lora_file import make_adapter_file

    named = named_by(adapter)
    assert named is not None
    with quiet_toolchains(verbose), progress_steps(quiet) as step:
        made = make_adapter_file(opened, named, named_by(checkpoint), out, step)
    rank = opened.manifest["lora"]["rank"]
    padded = "" if made.rank == rank else f", padded to {rank}"
    show(f"{made.matrices} matrices of rank {made.rank}{padded}\nadapter: {out}")


if __name__ == "__main__":
    main()

"""``g3n-calibrate``: a checkpoint whose matrices are int4 already, rounded by what the model does with examples."""

from __future__ import annotations

from pathlib import Path

import click

from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.cli.interrupt import insistent_interrupt
from g3n_compiler.cli.options import QUIET, VERBOSE, CheckpointName, FileName, Verb, Words
from g3n_compiler.cli.show import progress_steps, show


@click.command(
    cls=Verb,
    examples=[
        ("g3n-calibrate examples.jsonl --out calibrated", "the embedded model, by examples of your own"),
        ("g3n-calibrate examples.jsonl --checkpoint ~/my-gemma-3n --out calibrated", "a checkpoint of your own"),
        ("g3n-compile --checkpoint calibrated", "then compile what came out"),
    ],
)
@click.argument("examples", type=FileName())
@click.option("--size", type=Words(), help="Published model, e2b or e4b [default: nano, or as a --checkpoint is].")
@click.option(
    "--checkpoint", type=CheckpointName(), help="A folder, or owner/name[@revision] on the hub [default: the size's]."
)
@click.option(
    "--quant", type=Words(), default="int4", show_default=True, help="Recipe (name, or saved file) to compile it with."
)
@click.option("--out", type=FileName(), required=True, help="Folder for the calibrated checkpoint.")
@QUIET
@VERBOSE
@reports_errors
def main(
    examples: Path, size: str | None, checkpoint: str | None, quant: str, out: Path, quiet: bool, verbose: bool
) -> None:
    """Round a checkpoint's int4 matrices so that their outputs on EXAMPLES change least.

    EXAMPLES has one JSON object per line: a prompt and an answer, with images and audio as files beside it, or a text.
    The result is a checkpoint as large as the first, for g3n-compile --checkpoint.
    """
    from g3n_compiler.calibrate.run import calibrate  # toolchains, which --help needs not
    from g3n_compiler.checkpoint.hub import name_size, resolve_checkpoint, stay_offline
    from g3n_compiler.checkpoint.hub_id import named_by
    from g3n_compiler.errors import ExampleError
    from g3n_compiler.quantize.saved import find_recipe
    from g3n_runtime.reading import open_regular

    find_recipe(quant)
    open_regular(examples, ExampleError).close()
    named = named_by(checkpoint)
    size = name_size(size, named)
    with insistent_interrupt(), quiet_toolchains(verbose), progress_steps(quiet) as step:
        directory = resolve_checkpoint(size, named, step)
        stay_offline()
        record = calibrate(directory, examples, quant, out, step)
    show(
        f"{record.matrices} matrices rounded by {record.examples} examples: squared error of their outputs "
        f"{record.error:.0%} of plain rounding's\ncheckpoint: {out}"
    )


if __name__ == "__main__":
    main()

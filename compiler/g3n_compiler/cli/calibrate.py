"""``g3n-calibrate``: a checkpoint whose matrices are int4 already, rounded by what the model does with examples."""

from __future__ import annotations

from pathlib import Path

import click

from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.cli.interrupt import insistent_interrupt
from g3n_compiler.cli.options import (
    MOST_LAYERS,
    MOST_WIDTH,
    QUIET,
    VERBOSE,
    CheckpointName,
    FileName,
    IntegerList,
    NameList,
    Verb,
    Words,
)
from g3n_compiler.cli.show import progress_steps, show


@click.command(
    cls=Verb,
    examples=[
        ("g3n-calibrate examples.jsonl --out calibrated", "the embedded model, by examples of your own"),
        ("g3n-calibrate examples.jsonl --checkpoint ~/my-gemma-3n --out calibrated", "a checkpoint of your own"),
        ("g3n-calibrate examples.jsonl --size e4b --elastic e4b,e2b --out calibrated", "for two sizes in one bundle"),
        ("g3n-compile --checkpoint calibrated", "then compile what came out"),
    ],
    groups={
        "Model": ("size", "checkpoint", "lora"),
        "MatFormer slices": ("skip_layers", "ffn_dims", "params", "elastic"),
    },
)
@click.argument("examples", type=FileName())
@click.option("--size", type=Words(), help="Published model, e2b or e4b [default: nano, or as a --checkpoint is].")
@click.option(
    "--checkpoint", type=CheckpointName(), help="A folder, or owner/name[@revision] on the hub [default: the size's]."
)
@click.option("--lora", type=CheckpointName(), help="PEFT adapter to merge into the weights, named as --checkpoint is.")
@click.option("--skip-layers", type=IntegerList(0, MOST_LAYERS - 1), help="Layers of the checkpoint to leave out.")
@click.option("--ffn-dims", type=IntegerList(1, MOST_WIDTH), help="FFN width, one for all kept layers or one for each.")
@click.option("--params", type=Words(), help="Best published slice of E4B with at most so many parameters, e.g. 2.5b.")
@click.option("--elastic", type=NameList(), help="Sizes that g3n-compile --elastic will nest, e.g. e4b,e2b.")
@click.option(
    "--quant", type=Words(), default="int4", show_default=True, help="Recipe (name, or saved file) to compile it with."
)
@click.option("--out", type=FileName(), required=True, help="Folder for the calibrated checkpoint.")
@QUIET
@VERBOSE
@reports_errors
def main(
    examples: Path,
    size: str | None,
    checkpoint: str | None,
    lora: str | None,
    skip_layers: tuple[int, ...] | None,
    ffn_dims: tuple[int, ...] | None,
    params: str | None,
    elastic: tuple[str, ...] | None,
    quant: str,
    out: Path,
    quiet: bool,
    verbose: bool,
) -> None:
    """Round a checkpoint's int4 matrices so that their outputs on EXAMPLES change least.

    EXAMPLES has one JSON object per line: a prompt and an answer, with images and audio as files beside it, or a text.
    The result is a checkpoint for g3n-compile --checkpoint, as large as the first; one of a slice holds the slice
    alone, and one for several sizes is compiled with the same --elastic.
    """
    from g3n_compiler.calibrate.run import View, calibrate  # toolchains, which --help needs not
    from g3n_compiler.checkpoint.hub import (
        name_size,
        require_folder,
        resolve_adapter,
        resolve_checkpoint,
        stay_offline,
    )
    from g3n_compiler.checkpoint.hub_id import named_by
    from g3n_compiler.errors import ExampleError
    from g3n_compiler.quantize.saved import find_recipe
    from g3n_compiler.slice.choose import SliceOptions
    from g3n_runtime.reading import open_regular

    find_recipe(quant)
    open_regular(examples, ExampleError).close()
    slicing = SliceOptions(skip_layers, ffn_dims, None, params)
    slicing.check()
    named, adapter = named_by(checkpoint), named_by(lora)
    size = name_size(size, named)
    with insistent_interrupt(), quiet_toolchains(verbose), progress_steps(quiet) as step:
        for folder in (named, adapter):
            if isinstance(folder, Path):
                require_folder(folder)  # before anything is fetched
        merged = None if adapter is None else resolve_adapter(adapter, step)
        directory = resolve_checkpoint(size, named, step)
        stay_offline()
        record = calibrate(directory, examples, quant, out, step, View(size, slicing, elastic, merged))
    show(
        f"{record.matrices} matrices rounded by {record.examples} examples: squared error of their outputs "
        f"{record.error:.0%} of plain rounding's"
    )
    if (loss := record.loss) is not None:
        lost = loss["perplexity"] / loss["exact_perplexity"] - 1
        show(f"perplexity {lost:+.1%} on {loss['tokens']} tokens of {loss['texts']}")
    show(f"checkpoint: {out}")


if __name__ == "__main__":
    main()

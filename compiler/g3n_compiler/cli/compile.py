"""``g3n-compile``: from a checkpoint to a proven bundle."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import click

from g3n_compiler.bundle.signing import load_signing_key
from g3n_compiler.cli.common import portable_command, quiet_toolchains, reports_errors, without_option
from g3n_compiler.cli.interrupt import insistent_interrupt
from g3n_compiler.cli.options import (
    MOST_LAYERS,
    MOST_SIDE,
    MOST_TOKENS,
    MOST_WIDTH,
    QUIET,
    TOKENS,
    VERBOSE,
    CheckpointName,
    FileName,
    IntegerList,
    NameList,
    Percentage,
    Verb,
    Words,
)
from g3n_compiler.cli.show import progress_steps, show, styled
from g3n_compiler.lower.registry import BACKENDS
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.report.loss import loss_sentence, loss_warning, part_sentences
from g3n_compiler.report.placement import not_run
from g3n_compiler.report.single import single_sentences
from g3n_compiler.targets import TARGETS
from g3n_runtime.bundle import open_bundle

LOUDNESS = re.compile("--quiet|--verbose|-[qv]+")


@click.command(
    cls=Verb,
    examples=[
        ("g3n-compile", "the embedded model, for this machine"),
        ("g3n-compile --target pixel --size e2b", "E2B from the hub, for a Pixel's GPU"),
        ("g3n-compile --target android --checkpoint ~/my-gemma-3n --sign key.pem", "a fine-tune, signed"),
        ("g3n-compile --size e4b --budget 2.5GB", "the best slice of E4B that fits the memory"),
    ],
    groups={
        "Model": ("size", "checkpoint", "lora", "modalities", "image_sizes"),
        "Device": ("target", "runtime", "soc", "require_gpu"),
        "Contents": ("quant", "context", "prefill_lengths", "tools", "lora_rank", "single_pte"),
        "Quality": ("held_texts", "max_loss", "max_size"),
        "MatFormer slices": ("skip_layers", "ffn_dims", "budget", "params", "elastic"),
    },
    remark="An interrupted compile resumes when you run the same command again.",
)
@click.option("--target", type=Words(), default="host", show_default=True, help=f"Device: {', '.join(TARGETS)}.")
@click.option(
    "--size",
    type=Words(),
    help="nano, e2b, e4b or a published slice such as e2.98b-layer [default: nano, or as a --checkpoint is].",
)
@click.option(
    "--checkpoint",
    type=CheckpointName(),
    help="Checkpoint: a folder, or owner/name[@revision] on the hub [default: the hub's, for the size].",
)
@click.option("--runtime", type=click.Choice([*BACKENDS, "both"]), help="Runtime [default: the target's own].")
@click.option(
    "--quant", type=Words(), default="int4", show_default=True,
    help=f"Recipe: {', '.join(RECIPES)}; auto, within --max-size or --max-loss; or a file of g3n-inspect --recipe.",
)  # fmt: skip
@click.option("--context", type=TOKENS, help="Tokens that must fit [default: 4096, or the model's if that is less].")
@click.option(
    "--prefill-lengths", type=IntegerList(1, MOST_TOKENS), help="Prompt chunks to compile for [default: 128,256]."
)
@click.option("--tools", is_flag=True, help="Let LiteRT-LM read tool calls; needs --modalities text.")
@click.option("--lora-rank", type=TOKENS, help="Let LiteRT-LM add adapters up to this rank at run time: 16 or 32.")
@click.option(
    "--single-pte", type=NameList(),
    help="Add one ExecuTorch program with the whole model, for an app of its own: stock, rows (docs/apps.md).",
)  # fmt: skip
@click.option(
    "--modalities",
    type=NameList(),
    help="Parts to compile, of text,vision,audio [default: all that the checkpoint has].",
)
@click.option(
    "--image-sizes", type=IntegerList(1, MOST_SIDE),
    help="Image sides in pixels, the stock engine's first [default: of 768,512,256, up to the processor's own].",
)  # fmt: skip
@click.option("--lora", type=CheckpointName(), help="PEFT adapter to merge into the weights, named as --checkpoint is.")
@click.option("--skip-layers", type=IntegerList(0, MOST_LAYERS - 1), help="Layers of the checkpoint to leave out.")
@click.option("--ffn-dims", type=IntegerList(1, MOST_WIDTH), help="FFN width, one for all kept layers or one for each.")
@click.option("--budget", type=Words(), help="Best published slice of E4B within this peak memory, e.g. 2.5GB.")
@click.option("--params", type=Words(), help="Best published slice of E4B with at most so many parameters, e.g. 2.5b.")
@click.option("--elastic", type=NameList(), help="Sizes to nest in one bundle, e.g. e2b,e4b or full,half.")
@click.option("--soc", type=Words(), help="Chip to compile for ahead of time, e.g. Tensor_G5.")
@click.option("--require-gpu", is_flag=True, help="Fail unless a GPU here can run what the target places on one.")
@click.option(
    "--eval",
    "held_texts",
    type=FileName(),
    help="JSON lines of texts to measure the loss on [default: texts that come with g3n].",
)
@click.option("--max-loss", type=Percentage(), help="Refuse a bundle whose perplexity rises by more, e.g. 3%.")
@click.option("--max-size", type=Words(), help="Refuse a bundle whose files for one runtime are larger, e.g. 2.5GB.")
@click.option("--out", type=FileName(), help="Bundle folder [default: exported/SIZE-TARGET-QUANT].")
@click.option("--force", is_flag=True, help="Compile even what is up to date.")
@click.option("--sign", type=FileName(), help="Sign the bundle with this private key (PEM, EC P-256).")
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@QUIET
@VERBOSE
@reports_errors
def main(
    target: str,
    size: str | None,
    checkpoint: str | None,
    runtime: str | None,
    quant: str,
    context: int | None,
    prefill_lengths: tuple[int, ...] | None,
    tools: bool,
    lora_rank: int | None,
    single_pte: tuple[str, ...] | None,
    modalities: tuple[str, ...] | None,
    image_sizes: tuple[int, ...] | None,
    lora: str | None,
    skip_layers: tuple[int, ...] | None,
    ffn_dims: tuple[int, ...] | None,
    budget: str | None,
    params: str | None,
    elastic: tuple[str, ...] | None,
    soc: str | None,
    require_gpu: bool,
    held_texts: Path | None,
    max_loss: float | None,
    max_size: str | None,
    out: Path | None,
    force: bool,
    sign: Path | None,
    output: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """Compile a Gemma 3n checkpoint into a bundle and compare it with the reference before it counts as made."""
    from g3n_compiler.checkpoint.hub_id import named_by
    from g3n_compiler.compile import compile_or_keep  # toolchains, which --help needs not
    from g3n_compiler.request.options import CompileOptions
    from g3n_compiler.slice.choose import SliceOptions

    key = None if sign is None else load_signing_key(sign)
    if key is not None and key.exposed:
        show(f"warning: others than you may read {sign}: chmod 600 it", err=True)
    options = CompileOptions(
        target, size, named_by(checkpoint), runtime, quant, context, prefill_lengths, modalities, image_sizes,
        named_by(lora), soc, out,
        _asked(sys.argv), SliceOptions(skip_layers, ffn_dims, budget, params),
        elastic, key, force, require_gpu, held_texts, max_loss, max_size, tools, lora_rank, single_pte or (),
    )  # fmt: skip
    with insistent_interrupt(), quiet_toolchains(verbose), progress_steps(quiet) as step:
        directory, up_to_date = compile_or_keep(options, step)
    manifest = open_bundle(directory, check_hashes=False).manifest
    if output == "json":
        click.echo(
            json.dumps(
                {
                    "bundle": str(directory),
                    "up_to_date": up_to_date,
                    "manifest": manifest,
                    "key": key and key.public.fingerprint,
                }
            )
        )
        return
    if up_to_date:
        show("up to date: neither its inputs nor its files have changed (--force compiles it again)")
    for text in manifest["parity"]["texts"]:
        show(styled(text["runtime"], "bold"), f" {text['prompt']!r} -> {text['text']!r}")
    passed = len(manifest["parity"]["checks"])
    show(f"{passed} comparisons with the reference passed{' when it was compiled' if up_to_date else ''}")
    if (cost := loss_sentence(manifest)) is not None:
        show(cost)
    for sentence in [*part_sentences(manifest), *single_sentences(manifest)]:
        show(sentence)
    if (warning := loss_warning(manifest)) is not None:
        show(styled("warning: ", "yellow"), warning)
    for sentence in not_run(manifest):
        show(styled("not run: ", "yellow"), sentence)
    show(f"bundle: {directory}\nreport: {directory / 'report.html'}")
    if key is not None:
        show(f"signed by: {key.public.fingerprint}")


def _asked(argv: list[str]) -> str:
    """The command line as the manifest has it: only what decides what is in the bundle."""
    words = without_option(without_option(argv, "--sign"), "--format")
    return portable_command([word for word in words if word != "--force" and not LOUDNESS.fullmatch(word)])


if __name__ == "__main__":
    main()

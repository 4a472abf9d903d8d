"""``g3n-verify``: parity of a finished bundle against its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import click

from g3n_compiler.checkpoint.hub import resolve_checkpoint
from g3n_compiler.checkpoint.lora import LoraAdapter
from g3n_compiler.checkpoint.reader import Checkpoint
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.cli.guard import GuardedCommand
from g3n_compiler.cli.options import FileName
from g3n_compiler.cli.show import DataTable, progress_steps, show, show_table, styled
from g3n_compiler.errors import CheckpointError
from g3n_compiler.lower.backend import Job
from g3n_compiler.lower.registry import get_backend
from g3n_compiler.modules.multimodal_embedder import HardRows
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.slice.elastic import Size, choose_sizes
from g3n_compiler.slice.plan import Slice
from g3n_compiler.slice.view import SlicedCheckpoint
from g3n_compiler.targets import RUNTIMES
from g3n_compiler.verify.arm64 import ArmKit, verify_arm64
from g3n_compiler.verify.parity import Parity
from g3n_compiler.verify.run import verify
from g3n_runtime.bundle import Bundle, open_bundle
from g3n_runtime.errors import HashMismatch, SignatureError
from g3n_runtime.public_key import PublicKey, load_public_key
from g3n_runtime.signature import check_signature

ARM_KIT = Path("build") / "arm64"


@click.command(cls=GuardedCommand)
@click.argument("bundle", type=FileName())
@click.option("--checkpoint", type=FileName(), help="Checkpoint folder [default: the one of its size].")
@click.option("--lora", type=FileName(), help="The adapter it was compiled with.")
@click.option("--key", type=FileName(), help="Public key (PEM) that must have signed the bundle.")
@click.option("--signature-only", is_flag=True, help="With --key: look at nothing but the signature and the hashes.")
@click.option(
    "--arch", type=click.Choice(["host", "arm64"]), default="host", show_default=True, help="Where to run it."
)
@click.option("--kit", type=FileName(), default=ARM_KIT, show_default=True, help="See make arm64-kit.")
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@reports_errors
def main(
    bundle: Path,
    checkpoint: Path | None,
    lora: Path | None,
    key: Path | None,
    signature_only: bool,
    arch: str,
    kit: Path,
    output: str,
) -> None:
    """Compare a bundle with its checkpoint again; exits non-zero when anything differs.

    With --arch arm64 it is compared with itself under the official aarch64 runtimes, emulated: for small bundles.
    """
    if signature_only and key is None:
        raise click.UsageError("--signature-only checks the signature of a key: name it with --key")
    if key is None:
        opened = open_bundle(bundle)
    else:
        signer = load_public_key(key)
        opened = _open_signed(bundle, signer)
        show(f"signed by: {signer.fingerprint}", err=output == "json")
    if signature_only:
        return
    arm = ArmKit(kit.absolute()) if arch == "arm64" else None
    with quiet_toolchains(), progress_steps() as step:
        source = _open_source(resolve_checkpoint(opened.manifest["model"]["size"], checkpoint), opened)
        adapter = None if lora is None else LoraAdapter(lora, source)
        source.update = adapter
        step("hashing the checkpoint")
        _check_origin(opened, source, None if adapter is None else adapter.sha256)
        sizes = _sizes(source, opened)
        modalities = tuple(opened.manifest["model"]["modalities"])
        source.hard_rows = HardRows.of(source, modalities)
        job = Job(
            source,
            load_tokenizer(source.directory, source.text),
            get_recipe(opened.manifest["recipe"]["name"]),
            opened.manifest["context"],
            tuple(opened.manifest["prefill_lengths"]),
            bundle,
            step,
            modalities,
            tuple((opened.manifest.get("vision") or {}).get("image_sizes", ())),
            sizes=sizes,
        )
        if arm is None:
            parity = verify(job, {r: get_backend(r) for r in RUNTIMES if r in opened.runtimes})
        else:
            parity = verify_arm64(job, opened, arm)
        opened.require_unchanged()
    if output == "json":
        click.echo(json.dumps(parity.as_dict()))
    else:
        _show(parity)
    parity.require()


def _open_signed(directory: Path, key: PublicKey) -> Bundle:
    """The bundle, every byte of it as ``key`` signed it."""
    opened = open_bundle(directory, check_hashes=False)
    check_signature(opened, key)
    try:
        opened.verify()
    except HashMismatch as error:
        raise SignatureError(f"{error}; it is not what {key.fingerprint} signed") from None
    return opened


def _open_source(directory: Path, bundle: Bundle) -> Checkpoint:
    """The checkpoint, or the slice of it that the bundle was made from."""
    made = bundle.manifest["model"]["slice"]
    if "kept" not in made:
        return Checkpoint(directory)
    return SlicedCheckpoint(directory, Slice(tuple(made["kept"]), tuple(made["ffn_dims"])))


def _sizes(source: Checkpoint, bundle: Bundle) -> tuple[Size, ...]:
    """The smaller sizes of an elastic bundle; ``source`` is then divided as the largest one is."""
    names = [size["name"] for size in bundle.manifest.get("sizes", ())]
    if not names:
        return ()
    largest, *smaller = choose_sizes(names, getattr(source, "source", source.text))
    source.text = largest.config
    return tuple(smaller)


def _check_origin(bundle: Bundle, checkpoint: Checkpoint, adapter: dict[str, str] | None) -> None:
    recorded = bundle.manifest["provenance"]
    if changed := sorted(set(recorded["checkpoint"].items()) ^ set(checkpoint.sha256().items())):
        raise CheckpointError(
            f"{changed[0][0]} of {checkpoint.directory} is not what the bundle came from: pass its own --checkpoint"
        )
    if recorded["adapter"] != adapter:
        raise CheckpointError("the bundle was compiled with another adapter: pass its own --lora, or none")


def _show(parity: Parity) -> None:
    table = DataTable("Comparisons", "runtime", "subgraph", "what", "against", "metric", "value", "limit", "")
    for c in parity.checks:
        verdict = styled("passed", "green") if c.passed else styled("failed", "bold red")
        table.add_row(
            c.runtime, c.subgraph, c.name, c.reference, c.metric, f"{c.value:.2g}", f"{c.limit:.2g}", verdict
        )  # fmt: skip
    show_table(table)

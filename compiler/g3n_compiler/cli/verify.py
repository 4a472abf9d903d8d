"""``g3n-verify``: parity of a finished bundle against its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import click

from g3n_compiler.checkpoint.hub import resolve_checkpoint
from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.cli.guard import GuardedCommand
from g3n_compiler.cli.options import FileName
from g3n_compiler.cli.show import DataTable, progress_steps, show, show_table, styled
from g3n_compiler.errors import CheckpointError
from g3n_compiler.lower.arm64_kit import ArmKit
from g3n_compiler.lower.job import Job
from g3n_compiler.lower.registry import BACKENDS, get_backend
from g3n_compiler.models.gemma3n.text_config import own_config
from g3n_compiler.quantize.recipe import get_recipe
from g3n_compiler.slice.elastic import choose_sizes
from g3n_compiler.slice.plan import Slice
from g3n_compiler.source import Source
from g3n_compiler.targets import get_target
from g3n_compiler.verify.arm64 import verify_arm64
from g3n_compiler.verify.checks import Parity
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
    manifest = opened.manifest
    arm = ArmKit(kit.absolute()) if arch == "arm64" else None
    with quiet_toolchains(), progress_steps() as step:
        directory = resolve_checkpoint(manifest["model"]["size"], checkpoint)
        source = Source.open(directory, _plan(opened), lora, manifest["model"]["modalities"])
        step("hashing the checkpoint")
        _check_origin(opened, source)
        names = [size["name"] for size in manifest.get("sizes", ())]
        largest, *smaller = choose_sizes(names, source.whole) if names else [None]
        if largest is not None:
            source = source.divided(largest.config)
        job = Job(
            source=source,
            tokenizer=load_tokenizer(source.directory, own_config(source.text)),
            recipe=get_recipe(manifest["recipe"]["name"]),
            target=get_target(manifest["target"]["name"]),
            context=manifest["context"],
            prefill_lengths=tuple(manifest["prefill_lengths"]),
            directory=bundle,
            progress=step,
            resolutions=tuple((manifest.get("vision") or {}).get("image_sizes", ())),
            sizes=tuple(size for size in smaller if size is not None),
        )
        backends = {r: get_backend(r) for r in BACKENDS if r in opened.runtimes}
        parity = verify(job, backends) if arm is None else verify_arm64(job, opened, backends, arm)
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


def _plan(bundle: Bundle) -> Slice | None:
    """The slice of the checkpoint that the bundle was made from, if it is not the whole."""
    made = bundle.manifest["model"]["slice"]
    return Slice(tuple(made["kept"]), tuple(made["ffn_dims"])) if "kept" in made else None


def _check_origin(bundle: Bundle, source: Source) -> None:
    recorded = bundle.manifest["provenance"]
    if changed := sorted(set(recorded["checkpoint"].items()) ^ set(source.checkpoint.sha256().items())):
        raise CheckpointError(
            f"{changed[0][0]} of {source.directory} is not what the bundle came from: pass its own --checkpoint"
        )
    if recorded["adapter"] != (None if source.adapter is None else source.adapter.sha256):
        raise CheckpointError("the bundle was compiled with another adapter: pass its own --lora, or none")


def _show(parity: Parity) -> None:
    table = DataTable("Comparisons", "runtime", "subgraph", "what", "against", "metric", "value", "limit", "")
    for c in parity.checks:
        verdict = styled("passed", "green") if c.passed else styled("failed", "bold red")
        table.add_row(
            c.runtime, c.subgraph, c.name, c.reference, c.metric, f"{c.value:.2g}", f"{c.limit:.2g}", verdict
        )  # fmt: skip
    show_table(table)

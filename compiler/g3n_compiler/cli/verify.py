"""``g3n-verify``: parity of a finished bundle against its checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from g3n_compiler.cli.common import quiet_toolchains, reports_errors
from g3n_compiler.cli.guard import GuardedCommand
from g3n_compiler.cli.options import QUIET, VERBOSE, CheckpointName, FileName
from g3n_compiler.cli.show import DataTable, progress_steps, show, show_table, styled
from g3n_runtime.bundle import Bundle, open_bundle
from g3n_runtime.chat import DEVICES, Device
from g3n_runtime.errors import HashMismatch, SignatureError
from g3n_runtime.public_key import PublicKey, load_public_key
from g3n_runtime.signature import check_signature

if TYPE_CHECKING:
    from g3n_compiler.verify.checks import Parity

ARM_KIT = Path("build") / "arm64"


@click.command(
    cls=GuardedCommand,
    examples=[
        ("g3n-verify exported/nano-host-int4", "everything again, against the checkpoint"),
        ("g3n-verify exported/mine --checkpoint ~/my-gemma-3n", "a bundle of a checkpoint of your own"),
        ("g3n-verify exported/mine --key alice.pub --signature-only", "only who made it, in seconds"),
    ],
)
@click.argument("bundle", type=FileName())
@click.option(
    "--checkpoint",
    type=CheckpointName(),
    help="Its folder, or owner/name[@revision] on the hub [default: its size's].",
)
@click.option("--lora", type=CheckpointName(), help="The adapter it was compiled with, named as --checkpoint is.")
@click.option("--key", type=FileName(), help="Public key (PEM) that must have signed the bundle.")
@click.option("--signature-only", is_flag=True, help="With --key: look at nothing but the signature and the hashes.")
@click.option(
    "--arch", type=click.Choice(["host", "arm64"]), default="host", show_default=True, help="Where to run it."
)
@click.option(
    "--backend", type=click.Choice(DEVICES), help="Run it on the GPU too, or not [default: if target and machine can]."
)
@click.option("--kit", type=FileName(), default=ARM_KIT, show_default=True, help="See make arm64-kit.")
@click.option("--format", "output", type=click.Choice(["text", "json"]), default="text", show_default=True)
@QUIET
@VERBOSE
@reports_errors
def main(
    bundle: Path,
    checkpoint: str | None,
    lora: str | None,
    key: Path | None,
    signature_only: bool,
    arch: str,
    backend: Device | None,
    kit: Path,
    output: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """Compare a bundle with its checkpoint again; exits non-zero when anything differs.

    With --arch arm64 it is compared with itself under the official aarch64 runtimes, emulated: for small bundles.
    """
    if backend is not None and arch == "arm64":
        raise click.UsageError("--arch arm64 runs on an emulated CPU: leave --backend out")
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
    from g3n_compiler.checkpoint.hub_id import named_by  # toolchains, which neither --help nor a signature needs
    from g3n_compiler.cli.parity import compare

    with quiet_toolchains(verbose), progress_steps(quiet) as step:
        parity = compare(opened, named_by(checkpoint), named_by(lora), kit if arch == "arm64" else None, backend, step)
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


def _show(parity: Parity) -> None:
    table = DataTable("Comparisons", "runtime", "subgraph", "what", "against", "metric", "value", "limit", "")
    for c in parity.checks:
        verdict = styled("passed", "green") if c.passed else styled("failed", "bold red")
        table.add_row(
            c.runtime, c.subgraph, c.name, c.reference, c.metric, f"{c.value:.2g}", f"{c.limit:.2g}", verdict
        )  # fmt: skip
    show_table(table)


if __name__ == "__main__":
    main()

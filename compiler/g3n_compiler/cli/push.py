"""``g3n-push``: sideload a bundle, and the sample app if asked, onto a phone over adb."""

from __future__ import annotations

from pathlib import Path

import click

from g3n_compiler.cli.common import reports_errors
from g3n_compiler.cli.options import QUIET, FileName, Verb, Words
from g3n_compiler.cli.show import progress_bytes, show
from g3n_runtime.accepted_keys import AcceptedKeys, accepted_keys_file
from g3n_runtime.bundle import SIGNATURE, Bundle, open_bundle
from g3n_runtime.errors import CannotCheckSignature, SignatureError
from g3n_runtime.public_key import parse_fingerprint
from g3n_runtime.push import Adb, push_bundle
from g3n_runtime.signature import check_signature


@click.command(
    cls=Verb,
    examples=[
        ("g3n-push exported/e2b-pixel-int4", "onto the only phone that adb sees"),
        ("g3n-push exported/e2b-pixel-int4 --serial R5CT --apk build/android/g3n.apk", "with the sample app"),
    ],
)
@click.argument("bundle", type=FileName())
@click.option("--serial", type=Words(), help="The device, as adb devices names it [default: the only one].")
@click.option("--apk", type=FileName(), help="Install this app too.")
@click.option("--adb", "program", type=Words(), default="adb", show_default=True, help="The adb executable.")
@click.option(
    "--accept-key", type=Words(), metavar="FINGERPRINT", help="Accept the key with this fingerprint from now on."
)
@click.option("--force", is_flag=True, help="Push even if the device looks too small or too old.")
@QUIET
@reports_errors
def main(
    bundle: Path,
    serial: str | None,
    apk: Path | None,
    program: str,
    accept_key: str | None,
    force: bool,
    quiet: bool,
) -> None:
    """Copy BUNDLE onto a phone, resuming where an earlier copy broke off, and verify its hashes there."""
    opened = open_bundle(bundle.absolute())
    show(_who_made(opened, AcceptedKeys(accepted_keys_file()), accept_key))
    adb = Adb(program, serial)
    with progress_bytes(f"pushing to {adb.serial}", quiet) as report:
        folder = push_bundle(adb, opened, report, force=force)
    show(f"{opened.manifest['name']} is in {folder}, every hash verified on the device")
    if apk is not None:
        adb.install(apk)
        show(f"{apk.name} is installed: open g3n and choose the bundle")


def _who_made(bundle: Bundle, accepted: AcceptedKeys, accept: str | None) -> str:
    """A line about the bundle's signature; the key of the fingerprint ``accept`` is accepted if it is the signer's.

    Raises:
        SignatureError: the signature is broken or another bundle's, or is not of the key that should be accepted.
    """
    wanted = None if accept is None else parse_fingerprint(accept)
    path = bundle.directory / SIGNATURE
    if wanted is None and not path.exists() and not path.is_symlink():
        return "who made this bundle: not signed"
    try:
        key = check_signature(bundle).fingerprint
    except CannotCheckSignature as reason:
        if wanted is not None:
            raise
        return f"who made this bundle: not checked, {reason}"
    if wanted is not None:
        if key != wanted:
            raise SignatureError(f"the bundle was signed by the key {key}, not by {wanted}: no key was accepted")
        accepted.add(key, bundle.directory.name)
    if key in accepted:
        return f"who made this bundle: the accepted key {key}"
    return f"who made this bundle: unknown key {key}\n(compare it with its owner, then --accept-key it)"


if __name__ == "__main__":
    main()

"""``g3n-push``: sideload a bundle, and the sample app if asked, onto a phone over adb."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from g3n_compiler.cli.common import reports_errors
from g3n_runtime.bundle import open_bundle
from g3n_runtime.push import Adb, push_bundle


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--serial", help="The device, as adb devices names it [default: the only one].")
@click.option("--apk", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Install this app too.")
@click.option("--adb", "program", default="adb", show_default=True, help="The adb executable.")
@click.option("--force", is_flag=True, help="Push although the device looks too small or too old.")
@reports_errors
def main(bundle: Path, serial: str | None, apk: Path | None, program: str, force: bool) -> None:
    """Copy BUNDLE onto a phone, resuming where an earlier copy broke off, and verify its hashes there."""
    opened = open_bundle(bundle.absolute())
    adb = Adb(program, serial)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        task = bars.add_task(f"pushing to {adb.serial}", total=None)
        folder = push_bundle(
            adb, opened, lambda done, total: bars.update(task, completed=done, total=total), force=force
        )
    click.echo(f"{opened.manifest['name']} is in {folder}, every hash verified on the device")
    if apk is not None:
        adb.install(apk)
        click.echo(f"{apk.name} is installed: open g3n and choose the bundle")

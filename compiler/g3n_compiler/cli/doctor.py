"""The doctor's report of ``g3n-inspect --checkpoint``: what a checkpoint is, before it is compiled."""

from __future__ import annotations

import json
import sys

import click

from g3n_compiler.checkpoint.hub import NANO, resolve_cached
from g3n_compiler.checkpoint.hub_id import folder_or_hub
from g3n_compiler.cli.interrupt import insistent_interrupt
from g3n_compiler.cli.show import DataTable, progress_steps, show, show_table, styled
from g3n_compiler.doctor import Findings, examine
from g3n_compiler.nano import checkpoint_dir

MOST_SHOWN = 20
"""Tensors with odd values that are listed; JSON has all."""


def show_checkpoint(checkpoint: str, weights: bool, output: str, quiet: bool) -> None:
    """Examine a folder, a repository in the hub's cache, or nano; exits with the code with which a compile would end.

    Args:
        weights: read all weights too.
    """
    directory = checkpoint_dir() if checkpoint == NANO else resolve_cached(folder_or_hub(checkpoint))
    with insistent_interrupt(), progress_steps(quiet) as step:
        findings = examine(directory, weights, step)
    if output == "json":
        click.echo(json.dumps(findings.as_dict()))
    else:
        _show(findings)
    sys.exit(findings.exit_code)


def _show(findings: Findings) -> None:
    table = DataTable(f"Checkpoint {findings.directory}", "", "", "", show_header=False)
    facts = findings.facts
    order = list(dict.fromkeys(fact.section for fact in facts))
    for section in order:
        own = [fact for fact in facts if fact.section == section]
        for number, fact in enumerate(own):
            last = number == len(own) - 1
            table.add_row(section if number == 0 else "", fact.what, fact.found, end_section=last)
    show_table(table)
    if findings.values is not None:
        _show_values(findings)
    for note in findings.notes:
        show(styled("note: ", "yellow"), note)
    for check in findings.checks:
        if check.error is not None:
            show(styled("refused: ", "bold red"), f"{check.name}: {check.error} ({check.kind}, {check.exit_code})")
        elif check.skipped is not None:
            show(styled("not checked: ", "yellow"), f"{check.name}, {check.skipped}")
    passed = sum(check.passed for check in findings.checks)
    verdict = "it would compile" if findings.exit_code == 0 else "it would not compile"
    show(f"{passed} of {len(findings.checks)} checks passed: {verdict}")


def _show_values(findings: Findings) -> None:
    assert findings.values is not None
    odd = [values for values in findings.values if values.odd is not None]
    if not odd:
        show(f"{len(findings.values):,} tensors were read: no odd values, no outlier channels")
        return
    title = f"Odd values: {len(odd):,} of {len(findings.values):,} tensors, the worst first"
    table = DataTable(title, "tensor", "what", right=("largest", "rms"))
    for values in odd[:MOST_SHOWN]:
        table.add_row(values.name, values.odd, f"{values.largest:.3g}", f"{values.rms:.3g}")
    show_table(table)
    show("A large column costs int4 accuracy, since it stretches the scale of every row.")
    if len(odd) > MOST_SHOWN:
        show(f"and {len(odd) - MOST_SHOWN:,} more: --format json lists all")

"""``report.html``: one self-contained page about a bundle, for people."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

REPORT = "report.html"


def write_report(directory: Path, manifest: dict[str, Any]) -> None:
    """Write the page of ``manifest`` into ``directory``."""
    (directory / REPORT).write_bytes(render(manifest).encode())


def render(manifest: dict[str, Any]) -> str:
    """The manifest as a page without scripts, fonts or images from elsewhere; the same manifest gives the same page."""
    import jinja2
    from markupsafe import Markup

    from g3n_compiler.report.commands import commands
    from g3n_compiler.report.comparisons import groups
    from g3n_compiler.report.curves import charts
    from g3n_compiler.report.loss import loss_sentence, loss_warning, part_sentences, widths_sentence, worst
    from g3n_compiler.report.memory import memory
    from g3n_compiler.report.placement import lanes, not_run
    from g3n_compiler.report.single import single_sentences

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["bytes"] = human_bytes
    folder = files("g3n_compiler.report")
    style = (folder / "report.css").read_text(encoding="utf-8")
    template = environment.from_string((folder / "report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        m=manifest,
        style=Markup(style),
        lanes=lanes(manifest),
        not_run=not_run(manifest),
        widths=widths_sentence(manifest),
        loss=loss_sentence(manifest),
        part_losses=part_sentences(manifest),
        loss_warning=loss_warning(manifest),
        worst=worst,
        commands=commands(manifest),
        singles=single_sentences(manifest),
        charts=charts(manifest),
        memory=memory(manifest),
        groups=groups(manifest),
    )


def human_bytes(count: int) -> str:
    """``1536 -> '1.5 KiB'``."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"

"""``report.html``: one self-contained page about a bundle, for people."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

REPORT = "report.html"


def write_report(directory: Path, manifest: dict[str, Any]) -> None:
    """Render the manifest as a page without scripts, fonts or images from elsewhere."""
    from g3n_compiler.report.plots import bytes_by_part, memory_by_phase, parity_by_subgraph

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["bytes"] = human_bytes
    template = environment.from_string((files("g3n_compiler.report") / "report.html.jinja").read_text(encoding="utf-8"))
    page = template.render(
        m=manifest,
        plots=[
            ("Parity by subgraph", parity_by_subgraph(manifest)),
            ("Bytes by part", bytes_by_part(manifest)),
            ("Memory by phase", memory_by_phase(manifest)),
        ],
    )
    (directory / REPORT).write_bytes(page.encode())


def human_bytes(count: int) -> str:
    """``1536 -> '1.5 KiB'``."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} B" if units[0] == "B" else f"{value:.1f} {units[0]}"

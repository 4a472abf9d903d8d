"""The plot of a frontier, whose bytes depend on the figures alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from g3n_compiler.report.frontier import Figures, Point
from g3n_compiler.report.own_file import write_marked

STYLE = {
    "svg.hashsalt": "g3n",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a dollar in a name is a dollar
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
MIB = 1 << 20


def write_frontier(points: Sequence[Point], path: Path) -> None:
    """Loss against bytes and against speed, as SVG or PNG by the name of ``path``.

    A line joins what nothing dominates in the two figures that it is drawn in.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        panels: tuple[tuple[Figures, str, Callable[[Point], float]], ...] = (
            (("nbytes", "loss"), "MiB of quantised weights", lambda p: p.nbytes / MIB),
            (("speed", "loss"), "tokens per second, float decoder, one thread", lambda p: p.speed),
        )
        for axes, (figures, label, of) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
            axes.scatter([of(p) for p in points], [p.loss for p in points], color="#8c8c8c", s=14)
            line = sorted((p for p in points if not p.dominated_by(points, figures)), key=of)
            axes.plot([of(p) for p in line], [p.loss for p in line], color="#3b76af", marker="o", markersize=4)
            for p in line:
                axes.annotate(p.name, (of(p), p.loss), xytext=(3, 4), textcoords="offset points", fontsize=6)
            axes.set_xlabel(label)
        figure.axes[0].set_ylabel("held-out loss, nats per token")
        # Dates and versions would make the same figures other bytes.
        metadata = {"Date": None, "Creator": None} if path.suffix == ".svg" else {"Software": None}
        buffer = io.BytesIO()
        figure.savefig(buffer, format=path.suffix[1:], metadata=metadata, dpi=120)
        write_marked(path, buffer.getvalue())

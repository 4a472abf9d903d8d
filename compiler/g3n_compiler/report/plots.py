"""The report's plots, as inline SVG whose bytes depend on the figures alone."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure

from g3n_compiler.report.frontier import Point
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


def parity_by_subgraph(manifest: dict[str, Any]) -> Markup:
    """Relative error of each comparison against its limit, logarithmic."""
    checks = [c for c in manifest["parity"]["checks"] if c["metric"] == "relative error"]
    labels = [f"{c['runtime']} · {c['subgraph']}: {c['name']}" for c in checks]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.8 + 0.26 * len(checks)), layout="constrained")
        axes = figure.subplots()
        axes.barh(labels, [max(c["value"], 1e-9) for c in checks], color="#3b76af", label="measured")
        axes.scatter([c["limit"] for c in checks], labels, color="#c0392b", marker="|", s=120, label="limit")
        axes.set_xscale("log")
        axes.invert_yaxis()
        axes.set_xlabel("relative error")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
        return _svg(figure)


def bytes_by_part(manifest: dict[str, Any]) -> Markup:
    """Bytes of each subgraph in the bundle."""
    parts = manifest["subgraphs"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.8 + 0.3 * len(parts)), layout="constrained")
        axes = figure.subplots()
        bars = axes.barh(
            [f"{p['runtime']} · {p['name']}" for p in parts], [p["bytes"] / MIB for p in parts], color="#3b76af"
        )
        axes.bar_label(bars, fmt="%.2f", padding=3)
        axes.invert_yaxis()
        axes.set_xlabel("MiB")
        return _svg(figure)


def memory_by_phase(manifest: dict[str, Any]) -> Markup:
    """The memory ledger as stacked bars: what is resident at the peak of each phase."""
    bars: list[tuple[str, dict[str, float]]] = []
    for runtime, ledger in manifest["memory"].items():
        size = {p["name"]: p["bytes"] / MIB for p in ledger["parts"]}
        base = {"core weights": size["core"], "KV cache": size["kv_cache"], "engine": size["engine"]}
        bars.append((f"{runtime} · load", base))
        bars += [(f"{runtime} · {p}", {**base, "activations": size[f"activations_{p}"]}) for p in ("prefill", "decode")]
    kinds = ["core weights", "KV cache", "engine", "activations"]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.9 + 0.3 * len(bars)), layout="constrained")
        axes = figure.subplots()
        left = [0.0] * len(bars)
        for kind, color in zip(kinds, ("#3b76af", "#e08b3e", "#8c8c8c", "#5aa469"), strict=True):
            widths = [parts.get(kind, 0.0) for _, parts in bars]
            axes.barh([label for label, _ in bars], widths, left=left, color=color, label=kind)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.set_xlabel("MiB")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False)
        return _svg(figure)


def write_frontier(points: Sequence[Point], path: Path) -> None:
    """Loss against bytes and against speed, as SVG or PNG by the name of ``path``; the best are joined by a line."""
    best = [p for p in points if not p.dominated_by(points)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 4.2), layout="constrained")
        for axes, label, of in zip(
            figure.subplots(1, 2, sharey=True),
            ("MiB of quantised weights", "tokens per second, float decoder, one thread"),
            (lambda p: p.nbytes / MIB, lambda p: p.speed),
            strict=True,
        ):
            axes.scatter([of(p) for p in points], [p.loss for p in points], color="#8c8c8c", s=14)
            line = sorted(best, key=of)
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


def _svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return Markup(text[text.index("<svg") :])

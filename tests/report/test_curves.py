"""Curves of the errors of layers: what a chart holds, and where its limit and its points lie."""

from __future__ import annotations

from typing import Any

from g3n_compiler.report.curves import HEIGHT, WIDTH, charts


def check(runtime: str, values: list[float], name: str = "chat", subgraph: str = "core") -> dict[str, Any]:
    parts = [{"name": f"layer {i}", "value": v} for i, v in enumerate(values[:-1])]
    parts.append({"name": "head", "value": values[-1]})
    return {"runtime": runtime, "subgraph": subgraph, "name": name, "limit": 0.01, "parts": parts}


def made(*checks: dict[str, Any]) -> dict[str, Any]:
    whole = {"runtime": "litert", "subgraph": "core", "name": "the whole graph", "limit": 1e-5}
    return {"parity": {"checks": [whole, *checks]}}


def test_a_chart_for_each_runtime_and_a_curve_for_each_comparison() -> None:
    found = charts(
        made(
            check("litert", [1e-3, 1e-4, 1e-5]),
            check("executorch", [1e-3, 1e-4, 1e-7]),
            check("litert", [1e-6, 1e-4, 1e-5], "beyond"),
            check("litert", [1e-6, 1e-5], subgraph="vision_encoder"),
        )
    )
    assert [(c.subgraph, c.runtime, [curve.label for curve in c.curves]) for c in found] == [
        ("core", "litert", ["chat", "beyond"]),
        ("core", "executorch", ["chat"]),
        ("vision_encoder", "litert", ["chat"]),
    ]
    first, second, tower = found
    assert first.y_ticks == second.y_ticks != tower.y_ticks
    assert first.curves[0].worst.name == "layer 0" and second.curves[0].worst.value == 1e-3


def test_the_scale_is_logarithmic_and_has_the_limit_in_it() -> None:
    (chart,) = charts(made(check("litert", [1e-3, 1e-4, 1e-2, 1e-5])))
    y = [dot.y for dot in chart.curves[0].dots]
    assert y[2] == chart.limit_y < y[0] < y[1] < y[3] < HEIGHT
    assert abs((y[1] - y[0]) - (y[3] - y[1])) < 0.2
    assert [dot.x for dot in chart.curves[0].dots] == sorted({dot.x for dot in chart.curves[0].dots})
    assert not chart.over
    assert [text for _, text, _ in chart.x_ticks] == ["0", "1", "2", "head"]


def test_what_is_over_the_limit_zero_or_endless_stays_in_the_picture() -> None:
    (chart,) = charts(made(check("litert", [0.0, 0.02, 1e30, 1e-3, 0.0])))
    assert chart.over == ["layer 1", "layer 2"]
    assert all(0 <= dot.y <= HEIGHT and 0 <= dot.x <= WIDTH for dot in chart.curves[0].dots)


def test_one_step_and_only_zeros() -> None:
    (chart,) = charts(made(check("litert", [0.0])))
    assert len(chart.curves[0].dots) == 1 and [text for _, text, _ in chart.x_ticks] == ["head"]


def test_long_names_are_written_at_both_ends_only() -> None:
    one = check("litert", [1e-3] * 9)
    for i, part in enumerate(one["parts"]):
        part["name"] = f"blocks.{i}.{'x' * 50}"
    (chart,) = charts(made(one))
    assert [(text[:8], anchor) for _, text, anchor in chart.x_ticks] == [("blocks.0", "start"), ("blocks.8", "end")]

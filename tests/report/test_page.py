"""``report.html``: what it says of a manifest, and that names in it are text."""

from __future__ import annotations

import copy
import json
import re
import shlex
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from g3n_compiler.report import REPORT, render, write_report
from g3n_compiler.report.commands import commands
from g3n_compiler.report.comparisons import groups
from g3n_compiler.report.placement import lanes, not_run
from g3n_compiler.report.single import single_sentences
from g3n_compiler.targets import TARGETS
from g3n_runtime.bundle import schema
from g3n_runtime.manifest_check import fault
from tests.android.golden import DIRECTORY

WHOLE: dict[str, Any] = json.loads((DIRECTORY / "manifest.json").read_text(encoding="utf-8"))
HOSTILE = "\"><script>alert(1)</script><img src=x onerror=y>' {{ 7 * 7 }} </style></pre>"
VOID = {"meta", "br", "img", "link", "input"}


@pytest.fixture
def manifest() -> dict[str, Any]:
    """A bundle's manifest, with the errors of some layers and what its phases hold."""
    made = copy.deepcopy(WHOLE)
    check = made["parity"]["checks"][0]
    check["parts"] = [{"name": f"layer {i}", "value": 10.0**-i} for i in range(3, 9)]
    for ledger in made["memory"].values():
        ledger["phases"] = {phase: {"engine": peak - 7, "kv_cache": 7} for phase, peak in ledger["peak"].items()}
    return made


def test_the_schema_has_the_errors_of_layers_and_the_phases(manifest: dict[str, Any]) -> None:
    assert fault(manifest, schema()) is None
    manifest["parity"]["checks"][0]["parts"][0]["value"] = "small"
    assert "parts/0/value" in (fault(manifest, schema()) or "")


class Page(HTMLParser):
    """Elements, attributes and text of a page; an element that is not closed in its place fails."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, tag

    def handle_data(self, data: str) -> None:
        self.text += data


def hostile(value: Any) -> Any:
    """``value`` with every text and every name in a table of names hostile; numbers and what is looked up stay."""
    if isinstance(value, dict):
        return {name: hostile(child) for name, child in value.items()}
    if isinstance(value, list):
        return [hostile(child) for child in value]
    return f"{value}{HOSTILE}" if isinstance(value, str) else value


def test_the_same_manifest_gives_the_same_page(manifest: dict[str, Any], tmp_path: Path) -> None:
    write_report(tmp_path, manifest)
    assert (tmp_path / REPORT).read_bytes() == render(copy.deepcopy(manifest)).encode()


def test_the_page_needs_nothing_from_elsewhere(manifest: dict[str, Any]) -> None:
    text = render(manifest)
    page = Page(text)
    assert not {"script", "link", "img", "iframe", "object"} & set(page.elements)
    assert all(value.startswith("#") for name, value in page.attributes if name in ("href", "src"))
    assert not any(name.startswith("on") for name, _ in page.attributes)
    assert "prefers-color-scheme: dark" in text and "@import" not in text and "url(" not in text
    ids = {value for name, value in page.attributes if name == "id"}
    assert {value[1:] for name, value in page.attributes if name == "href"} <= ids


def test_names_are_text(manifest: dict[str, Any]) -> None:
    plain, page = Page(render(manifest)), Page(render(hostile(manifest)))
    assert set(page.elements) == set(plain.elements)
    assert {name for name, _ in page.attributes} == {name for name, _ in plain.attributes}
    assert {v for n, v in page.attributes if n in ("href", "style")} >= {"#run"}
    assert not any("script" in value for name, value in page.attributes if name in ("class", "style", "href", "id"))
    assert "{{ 7 * 7 }}" in page.text and "<script>alert(1)</script>" in page.text


@pytest.mark.parametrize("dark", [False, True])
def test_both_schemes_have_every_colour(dark: bool, manifest: dict[str, Any]) -> None:
    style = render(manifest).split("<style>")[1].split("</style>")[0]
    light, night = re.findall(r":root \{(.*?)\}", style, re.S)
    defined = set(re.findall(r"(--[\w-]+):", night if dark else light))
    assert defined == set(re.findall(r"var\((--[\w-]+)\)", style))


def test_nothing_asks_for_more_than_a_narrow_page(manifest: dict[str, Any]) -> None:
    """A wide thing is in a box that scrolls, is a list where the page is narrow, or wraps."""
    page = render(manifest)
    assert 'name="viewport"' in page
    for table in re.finditer(r"<table( class=\"cards\")?>", page):
        assert table[1] or page[: table.start()].endswith('<div class="scroll" tabindex="0">')
    assert "overflow-wrap: anywhere" in page and not re.search(r"width: ?\d{3,}px", page)


def test_every_subgraph_is_in_its_lane(manifest: dict[str, Any]) -> None:
    found = [
        (runtime, box.name, box.nbytes)
        for runtime, own in lanes(manifest).items()
        for lane in own
        for box in lane.boxes
    ]
    assert sorted(found) == sorted((s["runtime"], s["name"], s["bytes"]) for s in manifest["subgraphs"])
    assert not not_run(manifest) and "was not run" not in render(manifest)
    assert not any(lane.not_run or lane.accelerator for own in lanes(manifest).values() for lane in own)


def test_what_a_gpu_would_run_was_compared_on_the_cpu(manifest: dict[str, Any]) -> None:
    moved = {"device": "accelerator", "delegate": "gpu", "verified_by": "xnnpack"}
    manifest["target"]["placement"] |= {"core": moved, "vision_encoder": moved}
    for part in manifest["subgraphs"]:
        if part["name"] in ("core", "vision_encoder"):
            part |= {"device": "accelerator", "backend": "gpu"}
    (sentence,) = not_run(manifest)
    assert sentence == (
        "The GPU was not run. On the device, core and vision_encoder would run there; here the same artifact was "
        "compared with the reference on the CPU of the machine that compiled it, through XNNPACK, and its operators "
        "were looked up in the list of those that the GPU takes. To have it run, compile where there is a Vulkan "
        "driver; make gpu-kit brings one in software, see docs/gpu.md."
    )
    assert sentence in Page(render(manifest)).text
    first = lanes(manifest)["litert"][0]
    assert (first.device, first.not_run) == ("GPU", True)
    assert {box.name for box in first.boxes} == {"core", "vision_encoder"}
    assert {box.tool for box in first.boxes} == {"XNNPACK"}


def test_what_a_gpu_ran_is_said_with_its_driver(manifest: dict[str, Any]) -> None:
    ran = {"device": "accelerator", "delegate": "gpu", "verified_by": "gpu", "verified_on": "SwiftShader (software)"}
    manifest["target"]["placement"]["core"] = ran
    for part in manifest["subgraphs"]:
        if part["name"] == "core":
            part |= {"device": "accelerator", "backend": "gpu"}
    assert not not_run(manifest)
    page = Page(render(manifest)).text
    assert "was not run" not in page and "Compared on the GPU (SwiftShader (software)) and on the CPU" in page


def test_what_a_gpu_ran_in_part_is_said(manifest: dict[str, Any]) -> None:
    ran = {"device": "accelerator", "delegate": "gpu", "verified_by": "gpu", "verified_on": "SwiftShader (software)"}
    ran["verified_part"] = "layers 0, 4 of 10, one of each kind, and the head, each alone"
    manifest["target"]["placement"]["core"] = ran
    for part in manifest["subgraphs"]:
        if part["name"] == "core":
            part |= {"device": "accelerator", "backend": "gpu"}
    (sentence,) = not_run(manifest)
    assert sentence == (
        "Of core the GPU ran a part: layers 0, 4 of 10, one of each kind, and the head, each alone. All of it was "
        "compared with the reference on the CPU."
    )
    assert sentence in Page(render(manifest)).text


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_that_is_compared_by_something_else_says_so(target: str, manifest: dict[str, Any]) -> None:
    places = TARGETS[target].placement
    manifest["target"]["placement"] = {
        name: {"device": p.device, "delegate": p.delegate, "verified_by": p.verified_by} for name, p in places.items()
    }
    differ = any(p.delegate != p.verified_by for p in places.values())
    assert bool(not_run(manifest)) == differ == ("was not run" in render(manifest))


def test_commands_name_the_files_by_their_roles(manifest: dict[str, Any]) -> None:
    for entry in manifest["files"]:
        entry["path"] = f"it's a {entry['role']}"
    shell = [line for c in commands(manifest) if c.language == "shell" for line in c.lines.splitlines()]
    words = [shlex.split(line) for line in shell]
    assert all(w[1] in (".", "run") for w in words)
    (stock,) = [w for w in words if w[0] == "litert-lm"]
    assert stock[2] == "./it's a litertlm" and stock[-1] == manifest["parity"]["texts"][0]["prompt"]
    (python,) = [c.lines for c in commands(manifest) if c.language == "Python"]
    compile(python, "page", "exec")
    for role in ("executorch_model", "executorch_tables", "tokenizer_json"):
        assert repr(f"it's a {role}") in python
    assert {w[3] for w in words if w[0] == "g3n-run"} == set(manifest["memory"])
    assert any("--image" in w for w in words) and any("--audio" in w for w in words)


def test_commands_are_for_what_is_there(manifest: dict[str, Any]) -> None:
    manifest["files"] = [f for f in manifest["files"] if f["role"] == "litertlm"]
    manifest["memory"].pop("executorch")
    manifest["model"]["modalities"] = ["text"]
    lines = "\n".join(c.lines for c in commands(manifest))
    assert "executorch" not in lines and "--image" not in lines and "--audio" not in lines and "--size" not in lines


def test_options_of_the_commands_exist(manifest: dict[str, Any]) -> None:
    from g3n_compiler.cli.inspect import main as g3n_inspect
    from g3n_compiler.cli.push import main as g3n_push
    from g3n_compiler.cli.run import main as g3n_run
    from g3n_compiler.cli.verify import main as g3n_verify

    verbs = {"g3n-run": g3n_run, "g3n-inspect": g3n_inspect, "g3n-push": g3n_push, "g3n-verify": g3n_verify}
    manifest["sizes"] = [{}]
    for command in commands(manifest):
        for line in command.lines.splitlines():
            name, *words = shlex.split(line) if command.language == "shell" else [""]
            if name in verbs:
                known = {option for parameter in verbs[name].params for option in parameter.opts}
                assert {word for word in words if word.startswith("--")} <= known


def test_comparisons_are_all_there_and_a_failed_one_is_open(manifest: dict[str, Any]) -> None:
    checks = manifest["parity"]["checks"]
    assert [row.check for group in groups(manifest) for row in group.rows] != []
    assert sum(len(group.rows) for group in groups(manifest)) == len(checks)
    assert "details open" not in render(manifest)
    checks[-1] |= {"passed": False, "value": 1.0, "limit": 0.1}
    manifest["parity"]["passed"] = False
    page = render(manifest)
    assert page.count("<details open>") == 1 and "Comparisons failed" in page
    worst = groups(manifest)[-1].rows[-1]
    assert worst.bar == pytest.approx(90) and worst.mark == pytest.approx(80)


def test_programs_that_hold_the_whole_model_are_told(manifest: dict[str, Any]) -> None:
    assert single_sentences(manifest) == []
    for form in ("stock", "rows"):
        entry = {"path": f"nano-{form}.pte", "role": f"executorch_{form}", "sha256": "0" * 64, "bytes": 2 << 20}
        manifest["files"].append(entry)
    both = {"methods": ["token_embedding", "text_decoder"], "chunk": 257, "image_size": 256, "samples": 481280}
    manifest["single_pte"] = [{"form": form, "role": f"executorch_{form}"} | both for form in ("stock", "rows")]
    stock, rows = single_sentences(manifest)
    assert "nano-stock.pte, 2.1 MB" in stock and "MultimodalRunner" in stock and "30 s" in stock and "257" in stock
    assert "nano-rows.pte" in rows and "was not run" in rows
    page = Page(render(manifest))
    assert "nano-rows.pte, 2.1 MB" in page.text and "MultimodalRunner('nano-stock.pte', 'tokenizer.json')" in page.text

"""Held-out loss of slices: what is measured, that it is kept, and which slices are worth their bytes."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from g3n_compiler.checkpoint.tokenizer import load_tokenizer
from g3n_compiler.cli.frontier import _table, _texts
from g3n_compiler.cli.inspect import main
from g3n_compiler.errors import CheckpointError, NotOurs
from g3n_compiler.models.gemma3n.published import published_slices
from g3n_compiler.models.gemma3n.transformers_model import load_hf
from g3n_compiler.report import frontier
from g3n_compiler.report.frontier import Measured, Point, nested_slices
from g3n_compiler.report.plots import write_frontier
from g3n_compiler.source import Source
from g3n_compiler.verify.reference import hf_logits
from g3n_runtime.json_digest import with_digest
from tests.conftest import TinyModel
from tests.slice.test_choose import E4B

TEXT = "In the beginning God created the heaven and the earth."


def run(tiny: TinyModel, folder: Path, *options: str) -> list[dict[str, object]]:
    text = folder / "text.txt"
    text.write_text(f"{TEXT}\nand\n", encoding="utf-8")
    words = ["--frontier", str(tiny.directory), "--text", str(text), "--plot", str(folder / "plot.svg"), *options]
    done = CliRunner().invoke(main, [*words, "--format", "json"], env={"G3N_CACHE_DIR": str(folder / "cache")})
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def test_loss_is_that_of_transformers_and_is_measured_once(tiny: TinyModel, tmp_path: Path) -> None:
    points = run(tiny, tmp_path, "--slices", "half-5")
    assert [p["name"] for p in points] == ["half-5"]
    sliced = Source.open(tiny.directory, nested_slices(tiny.open().text, (5,))["half-5"])
    nats, count = 0.0, 0
    tokenizer = load_tokenizer(tiny.directory, sliced.text)
    for line in (TEXT, "and"):
        ids = [tokenizer.bos_id, *tokenizer.encode(line)]
        logits = hf_logits(load_hf(sliced), ids[:-1])
        nats += float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="sum"))
        count += len(ids) - 1
    loss = points[0]["loss"]
    assert isinstance(loss, float) and math.isclose(loss, nats / count, rel_tol=1e-5)
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8").count("half-5") == 2
    for path in (tmp_path / "cache").rglob("*.json"):
        path.write_text(json.dumps(with_digest({"loss": 7.5, "speed": 3.0})), encoding="utf-8")
    assert {p["loss"] for p in run(tiny, tmp_path, "--slices", "half-5")} == {7.5}
    (tmp_path / "plot.svg").write_text("mine", encoding="utf-8")
    words = ["--frontier", "nano", "--plot", str(tmp_path / "plot.svg")]
    refused = CliRunner().invoke(main, words)
    assert refused.exit_code == NotOurs.exit_code and "choose another --plot" in refused.stderr
    assert (tmp_path / "plot.svg").read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("damage", [b"", b"{}", b'{"loss": 7.5, "speed": 3.0}', b'{"loss": "x", "speed": null}'])
def test_what_is_kept_of_a_slice_is_not_taken_if_it_is_damaged(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "key.json"
    frontier._keep(path, Measured(7.5, 3.0))
    assert frontier._known(path) == Measured(7.5, 3.0)
    path.write_bytes(damage)
    assert frontier._known(path) is None


@pytest.mark.parametrize("name", ["plot.svg", "plot.png"])
def test_a_plot_is_written_over_only_as_it_was_drawn(tmp_path: Path, name: str) -> None:
    points = [Point("full", 2, 10, 1 << 20, 2.0, 30.0), Point("half", 1, 5, 1 << 19, 2.5, 50.0)]
    path = tmp_path / name
    write_frontier(points, path)
    write_frontier(points[:1], path)
    (tmp_path / f"link-{name}").symlink_to(name)
    write_frontier(points, tmp_path / f"link-{name}")
    assert (tmp_path / f"link-{name}").is_symlink() and len(list(tmp_path.iterdir())) == 2
    for change in (lambda data: data + b"\n", lambda data: data.replace(b"f", b"g", 1), lambda data: b""):
        changed = change(path.read_bytes())
        (tmp_path / f"changed-{name}").write_bytes(changed)
        with pytest.raises(NotOurs, match="not as g3n wrote it"):
            write_frontier(points, tmp_path / f"changed-{name}")
        assert (tmp_path / f"changed-{name}").read_bytes() == changed
    partial = tmp_path / f".{name}.{os.getpid()}.partial"
    assert not partial.exists()
    partial.write_text("mine", encoding="utf-8")
    with pytest.raises(FileExistsError):
        write_frontier(points, path)
    assert partial.read_text(encoding="utf-8") == "mine"


def test_slices_to_look_at() -> None:
    assert list(nested_slices(E4B, ())) == list(published_slices())


def test_nano_has_every_nesting_point(tiny: TinyModel) -> None:
    slices = nested_slices(tiny.open().text, (5, 6))
    assert len(slices) == 11 + 9
    assert slices["full"].ffn_dims == (128,) * 10 and slices["half-5-6"].ffn_dims == (64,) * 8
    assert slices["first-2-half-5-6"].ffn_dims == (64, 64) + (128,) * 6


def point(nbytes: int, loss: float, speed: float = 100.0) -> Point:
    return Point("", 1, 1, nbytes, loss, speed)


@pytest.mark.parametrize(
    ("other", "dominates"),
    [
        (point(3, 2.0), False),  # equal in all
        (point(2, 2.0), True),
        (point(3, 1.9), True),
        (point(3, 2.0, 120.0), True),
        (point(2, 2.1), False),
        (point(2, 1.9, 80.0), False),
        (point(4, 2.1, 80.0), False),  # worse in all
        (point(2, 1.9, 97.0), True),  # as fast: another run would rank the two otherwise
        (point(3, 2.0, 103.0), False),
        (point(4, 2.1, 103.0), False),
    ],
)
def test_a_point_dominates_if_it_is_better_in_one_and_worse_in_none(other: Point, dominates: bool) -> None:
    assert point(3, 2.0).dominated_by([point(3, 2.0), other]) is dominates


def test_speed_counts_only_where_it_is_shown() -> None:
    slow, fast = point(3, 2.0), point(4, 2.1, 200.0)
    points = [slow, fast]
    assert [p.dominated_by(points) for p in points] == [False, False]
    assert [p.dominated_by(points, ("nbytes", "loss")) for p in points] == [False, True]
    assert [p.dominated_by([*points, point(9, 2.0, 200.0)], ("speed", "loss")) for p in points] == [True, True]


def test_the_table_stars_what_nothing_dominates() -> None:
    named = {"small": point(1, 2.5), "twin": point(1, 2.5), "worst": point(9, 3.0, 50.0), "best": point(5, 1.0)}
    points = [dataclasses.replace(p, name=name) for name, p in named.items()]
    table = _table(points, 10)
    names = [str(cell) for cell in table.columns[0].cells]
    assert sorted(names) == ["best *", "small *", "twin *", "worst"]


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--frontier", "DIR"), "--text"), (("--frontier", "nano", "--plot", "plot.gif"), "expected .svg or .png")],
)
def test_refused(tiny: TinyModel, options: tuple[str, ...], message: str) -> None:
    words = [str(tiny.directory) if word == "DIR" else word for word in options]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == CheckpointError.exit_code and message in " ".join(done.stderr.split())


TEXTS = {
    "a device": ("/dev/zero", b"", "is a device"),
    "nothing": ("a.txt", b"\n \n", "holds no text"),
    "not UTF-8": ("a.txt", b"a\n\xff\n", "line 2 is not UTF-8"),
    "a line of 2 MB": ("a.txt", b"a" * (2 << 20), "line 1 has more than 1048576 bytes"),
    "deep nesting": ("a.jsonl", b"[" * 100_000, "line 1 is not JSON"),
    "a long integer": ("a.jsonl", b'{"text": ' + b"1" * 5000 + b"}", "line 1 is not JSON"),
    "a list": ("a.jsonl", b"[1]", "line 1 is not a JSON object with a text"),
    "a number": ("a.jsonl", b'{"text": 3}', "line 1 is not a JSON object with a text"),
}


@pytest.mark.parametrize("name, content, message", TEXTS.values(), ids=TEXTS)
def test_texts_that_cannot_be_read(name: str, content: bytes, message: str, tiny: TinyModel, tmp_path: Path) -> None:
    path = tmp_path / name
    if content:
        path.write_bytes(content)
    words = ["--frontier", str(tiny.directory), "--text", str(path)]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == CheckpointError.exit_code and message in " ".join(done.stderr.split()), done.stderr


def test_no_more_of_a_text_is_read_than_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo\r\n\xff\n")
    assert list(itertools.islice(_texts(tmp_path / "a.txt"), 2)) == ["one", "two"]

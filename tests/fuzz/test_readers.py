"""Hostile input for every reader, a second or so each; ``benchmarks/fuzz.py`` goes on for as long as asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.case import Entry
from tests.fuzz.outcome import Limits
from tests.fuzz.pool import Child
from tests.fuzz.registry import READERS
from tests.fuzz.search import Tally, read_case, search

EXAMPLES = 40
SLOW = {
    "safetensors header": 10,
    "index": 10,
    "config": 10,
    "tokenizer.json": 20,
    "tokenizer.model": 20,
    "template": 20,
    "manifest": 20,
    "adb answers": 10,
    "video": 15,
}
"""Fewer of those that take long, the whole beginning of a compile for example."""
SEED = 16


@pytest.fixture(scope="module")
def child(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    """One for all readers: what it imports takes longer than the cases."""
    with Child(tmp_path_factory.mktemp("fuzz") / "home") as child:
        yield child


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with Child(tmp_path_factory.mktemp("broken") / "home", "tests.fuzz.broken", Limits(1.5, 4)) as child:
        yield child


def test_there_are_seventeen() -> None:
    assert len(READERS) == 17


@pytest.mark.parametrize("name", READERS)
def test_a_seed_is_read(name: str, child: Child) -> None:
    """Else a reader that refuses everything would pass what follows."""
    if name == ".litertlm header":
        return  # its models are none
    outcome = child.run(name, {"adb/count": Entry(data=b"0\n")} if name == "adb answers" else {})
    assert outcome.verdict == "read", outcome.what


@pytest.mark.parametrize("name", READERS)
def test_hostile_input_is_read_or_refused(name: str, child: Child, tmp_path: Path) -> None:
    tally = Tally()
    search(name, child, tally, SEED, SLOW.get(name, EXAMPLES), tmp_path)
    assert tally.tries >= SLOW.get(name, EXAMPLES) // 2, "the strategy has run out of cases"
    assert not tally.failures, "\n".join(
        f"{where}\n{what}\n{path}" for where, (_, what, path) in tally.failures.items()
    )


@pytest.mark.parametrize(
    ("name", "verdict", "where"),
    [
        ("reads", "read", ""),
        ("refuses", "refused", "EngineError"),
        ("escapes", "failed", "KeyError at fuzz/broken.py"),
        ("loops", "failed", "too slow at fuzz/broken.py"),
        ("waits", "failed", "a hang in"),
        ("grows", "failed", "too much memory"),
        ("leaves", "failed", "files left behind"),
        ("dies", "ended", "signal 11"),
    ],
)
def test_the_harness_sees_what_is_wrong(name: str, verdict: str, where: str, broken: Child) -> None:
    outcome = broken.run(name, {})
    assert (outcome.verdict, outcome.where[: len(where)]) == (verdict, where), outcome.what


def test_a_failing_case_is_kept_and_the_same_seed_finds_it_again(broken: Child, tmp_path: Path) -> None:
    kept = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        tally = Tally()
        search("escapes", broken, tally, 7, 5, folder)
        ((count, _, path),) = tally.failures.values()
        assert count == tally.tries == 5
        kept.append(read_case(Path(path)))
        assert broken.run(*kept[-1]).verdict == "failed"
    assert kept[0] == kept[1]

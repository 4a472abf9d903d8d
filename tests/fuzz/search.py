"""Draw cases for a reader with Hypothesis, run them, and count what became of them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings

from tests.fuzz.case import Case, Entry
from tests.fuzz.outcome import Outcome
from tests.fuzz.pool import Child

BATCH = 200
"""Examples that are drawn from one seed: Hypothesis remembers all that it drew."""
CASE_FILE = "case.json"


@dataclass
class Tally:
    """What became of the cases of a reader."""

    tries: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    refused_by: Counter[str] = field(default_factory=Counter)
    """Refusals that began in a library that is not ours."""
    ended_by: Counter[str] = field(default_factory=Counter)
    """Libraries that ended the process."""
    failures: dict[str, tuple[int, str, str]] = field(default_factory=dict)
    """How often, what, and the file that reproduces it, by where it went wrong."""
    endings: dict[str, str] = field(default_factory=dict)
    """The file that reproduces it, by where a library ended the process, which the product is guarded from."""
    slowest: float = 0.0
    largest: int = 0

    def add(self, outcome: Outcome, guarded: bool, kept: Callable[[], str]) -> None:
        """Count ``outcome``; a library that ends the process is no failure where the product is ``guarded`` from it."""
        self.tries += 1
        self.verdicts[outcome.verdict] += 1
        self.slowest, self.largest = max(self.slowest, outcome.seconds), max(self.largest, outcome.memory)
        if outcome.verdict == "refused" and outcome.parser:
            self.refused_by[outcome.parser] += 1
        if outcome.verdict == "ended":
            self.ended_by[outcome.parser] += 1
        if outcome.verdict == "ended" and guarded and outcome.where not in self.endings:
            self.endings[outcome.where] = kept()
        if outcome.verdict == "failed" or (outcome.verdict == "ended" and not guarded):
            count, what, path = self.failures.get(outcome.where) or (0, outcome.what, kept())
            self.failures[outcome.where] = count + 1, what, path


def search(
    name: str,
    child: Child,
    tally: Tally,
    number: int,
    examples: int,
    keep: Path,
    more: Callable[[], bool] = lambda: True,
) -> None:
    """Run up to ``examples`` cases that ``number`` decides; a case that fails is written to the folder ``keep``."""

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
    )
    @given(child.readers[name].cases(child.seeds(name)))
    def one(case: Case) -> None:
        if more():
            outcome = child.run(name, case)
            tally.add(outcome, bool(child.readers[name].guarded_by), lambda: str(write_case(keep, name, case, outcome)))

    one()


def write_case(folder: Path, name: str, case: Case, outcome: Outcome) -> Path:
    """Write ``case`` so that :func:`read_case` gives it back, and what became of it beside."""
    values = {path: {**asdict(entry), "data": entry.data.hex()} for path, entry in case.items()}
    text = json.dumps({"reader": name, "case": values})
    path = folder / f"{name.replace('/', '_')}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    path.with_suffix(".txt").write_text(
        f"{outcome.where}\n\n{outcome.what}\n", encoding="utf-8", errors="backslashreplace"
    )
    return path


def read_case(path: Path) -> tuple[str, Case]:
    """Reader and case of a file that :func:`write_case` wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    entries = {name: Entry(**{**e, "data": bytes.fromhex(e["data"])}) for name, e in found["case"].items()}
    return found["reader"], entries

"""The app's real screens on this machine's JVM: what they do, and their pictures against those that were looked at."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from android_app.tests.conftest import OFFLINE, ROOT, run
from g3n_runtime.bundle import open_bundle
from g3n_runtime.chat import GREEDY, Attachments
from g3n_runtime.engines import open_engine

SOURCES = Path(__file__).parents[1] / "app" / "src" / "test"
PICTURES = SOURCES / "resources" / "pictures"
MOST_BYTES = 450_000
"""A picture for every state and setting has to be small to be kept in a repository."""


@pytest.fixture(scope="module")
def report(android: Path) -> str:
    return run(OFFLINE / "build_screens.sh", android / "parts", android, android / "pictures")


def test_every_screen_test_ran_and_passed(report: str) -> None:
    tests = {path.name: path.read_text("utf-8") for path in SOURCES.rglob("*Test.kt")}
    settings = len([path for path in PICTURES.iterdir() if path.is_dir()])
    written = sum(text.count("@Test\n") * (settings if "Parameterized" in text else 1) for text in tests.values())
    passed = re.search(r"^OK \((\d+) tests\)$", report, re.MULTILINE)
    assert passed, report[-4000:]
    assert int(passed[1]) == written > 40


def test_the_screens_run_the_real_engines(
    report: str, android: Path, shims: Path, litertlm: Path, nano_int4: Path, tmp_path: Path
) -> None:
    """Imported, judged, loaded, asked, turned, ended, gone on with in the other runtime, tested, shown a picture."""
    files = tmp_path / "files"
    picture = ROOT / "compiler/g3n_compiler/nano/heldout/seven.png"
    named = {"shims": shims, "litertlm": litertlm, "bundle": nano_int4, "files": files, "picture": picture}
    options = " ".join(f"-Dg3n.{name}={path}" for name, path in named.items())
    said = run(
        OFFLINE / "build_screens.sh", android / "parts", android, tmp_path, "org.g3n.app.RealEnginesTest",
        JAVA_OPTIONS=options,
    )  # fmt: skip
    assert re.search(r"^OK \(3 tests\)$", said, re.MULTILINE), said[-4000:]
    for name, runtime in (("litert", "litert"), ("executorch", "executorch"), ("picture", "litert")):
        turns = json.loads((files / f"{name}.json").read_text("utf-8"))
        engine = open_engine(open_bundle(nano_int4), runtime, threads=1)
        try:
            for asked, answered in zip(turns[::2], turns[1::2], strict=True):
                given = Attachments(images=(Path(asked["picture"]),)) if "picture" in asked else Attachments()
                assert "".join(engine.send(asked["text"], GREEDY, None, given)).strip() == answered["text"].strip()
        finally:
            engine.close()


def test_every_picture_that_is_kept_was_drawn(report: str, android: Path) -> None:
    kept = {path.relative_to(PICTURES) for path in PICTURES.rglob("*.png")}
    drawn = {path.relative_to(android / "pictures") for path in (android / "pictures").rglob("*.png")}
    assert kept == drawn, kept ^ drawn
    assert sum((PICTURES / path).stat().st_size for path in kept) < MOST_BYTES

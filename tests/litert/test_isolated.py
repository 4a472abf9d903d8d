"""A step in a process of its own: what it gives, raises, and leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from g3n_compiler.errors import ContextError, ResourceError
from g3n_compiler.lower.isolated import isolated

ABANDONED = """
import os, threading, time
from g3n_compiler.lower.isolated import isolated

if __name__ == "__main__":
    threading.Timer(4, os._exit, [0]).start()
    isolated(time.sleep, 300)
"""


EARLY = """
import os, sys, threading, time
from pathlib import Path
from g3n_compiler.lower.isolated import isolated

class Slow:
    def __reduce__(self):
        return time.sleep, (3,)  # in the child, before it can ask to end with its parent

if __name__ == "__main__":
    threading.Timer(float(sys.argv[2]), os.kill, [os.getpid(), 9]).start()
    isolated(Path(sys.argv[1]).write_text, "done", "utf-8", Slow())
"""


def refuse() -> None:
    raise ContextError("too long")


def die() -> None:
    os._exit(7)


def test_value_comes_from_another_process() -> None:
    assert isolated(os.getpid) != os.getpid()
    assert isolated(max, 3, 5) == 5


def test_its_error_is_ours() -> None:
    with pytest.raises(ContextError, match="too long"):
        isolated(refuse)


def test_its_death_is_told() -> None:
    with pytest.raises(ResourceError, match="exit code 7"):
        isolated(die)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process with its parent")
def test_it_does_not_outlive_us(tmp_path: Path) -> None:
    script = tmp_path / "abandoned.py"
    script.write_text(ABANDONED, encoding="utf-8")
    with subprocess.Popen([sys.executable, str(script)], start_new_session=True) as process:
        process.wait(60)
    for _ in range(50):
        if not _group_lives(process.pid):
            return
        time.sleep(0.1)
    pytest.fail("the child is still there")


def test_it_does_nothing_when_we_ended_before_it_began(tmp_path: Path) -> None:
    script = tmp_path / "early.py"
    script.write_text(EARLY.replace(", Slow())", ', "utf-8", Slow())'), encoding="utf-8")
    with subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "out"), "1.5"], start_new_session=True
    ) as process:
        assert process.wait(60) == -9
    for _ in range(150):
        if not _group_lives(process.pid):
            assert not (tmp_path / "out").exists()
            return
        time.sleep(0.1)
    pytest.fail("the child is still there")


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True

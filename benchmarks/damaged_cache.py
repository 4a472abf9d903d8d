"""Damage what LiteRT-LM kept of a bundle in 30 ways, one at a time: every answer must be the one given without a cache.

    python benchmarks/damaged_cache.py exported/nano-host-int4

Each answer comes from a fresh process of ``g3n-run``, since a damaged cache may end the process. The cache lies in a
folder of its own, which is removed at the end.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from g3n_compiler.cli.common import reports_errors
from g3n_compiler.errors import G3nError

PROMPT = "What is a river?"
Damage = Callable[[Path, Path], object]


def answer(bundle: Path, cache: Path | None) -> str:
    """What ``g3n-run`` says, greedily."""
    environ = {k: v for k, v in os.environ.items() if k not in ("HOME", "XDG_CACHE_HOME", "G3N_CACHE_DIR")}
    if cache is not None:
        environ["G3N_CACHE_DIR"] = str(cache)
    command = [sys.executable, "-c", "from g3n_compiler.cli.run import main; main()", str(bundle)]
    command += ["--runtime", "litert", "--temperature", "0", "--max-tokens", "24", PROMPT]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    if done.returncode:
        return f"exit code {done.returncode}: {done.stderr.strip()[-200:]}"
    return done.stdout.strip()


def damages(seed: int) -> Iterator[tuple[str, Damage]]:
    """Names and ways; each takes the kept file and its record."""
    draw = random.Random(seed)
    for share in (0, 0.001, 0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.999):
        yield f"a bit at {share:.1%}", lambda data, _, s=share: _change(data, int(s * data.stat().st_size), 1)
    for count in (100, 10_000):
        yield f"{count} bytes at random", lambda data, _, n=count: _scatter(data, n, draw)
    for share in (0.0, 0.25, 0.5, 0.999):
        yield f"cut to {share:.1%}", lambda data, _, s=share: os.truncate(data, int(s * data.stat().st_size))
    yield "zeros", lambda data, _: data.write_bytes(bytes(data.stat().st_size))
    yield "a part of zeros", lambda data, _: _change(data, data.stat().st_size // 2, 65536)
    yield "longer", lambda data, _: data.write_bytes(data.read_bytes() + b"\0" * 4096)
    yield "halves exchanged", lambda data, _: data.write_bytes(_halves(data.read_bytes()))
    yield "missing", lambda data, _: data.unlink()
    yield "a folder", lambda data, _: (data.unlink(), data.mkdir())
    yield "a pipe", lambda data, _: (data.unlink(), os.mkfifo(data))
    yield "a link to a damaged copy", lambda data, _: _linked(data)
    yield "a link to nowhere", lambda data, _: (data.unlink(), data.symlink_to("nowhere"))
    yield "a device", lambda data, _: (data.unlink(), data.symlink_to("/dev/zero"))
    yield "no record", lambda data, record: (_change(data, 5000, 500), record.unlink())
    yield "half a record", lambda data, record: record.write_bytes(record.read_bytes()[:50])
    yield "a record that is a folder", lambda data, record: (record.unlink(), record.mkdir())
    yield "a record of another model", lambda data, record: _record(record, model="0" * 64)
    yield "a record of another engine", lambda data, record: _record(record, engine="another")
    yield "a record of another digest", lambda data, record: (_change(data, 9000, 9), _record(record, blake3="0" * 64))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--seed", default=0, show_default=True)
@reports_errors
def main(bundle: Path, seed: int) -> None:
    """Damage the cache of BUNDLE and compare the answers."""
    want = answer(bundle, None)
    click.echo(f"without a cache: {want}")
    wrong = tried = 0
    with tempfile.TemporaryDirectory(prefix="g3n-damaged-") as folder:
        cache = Path(folder) / "g3n"
        for name, damage in damages(seed):
            answer(bundle, cache)
            (data,) = cache.glob("engines/litert-lm-*/*/*.bin")
            (record,) = cache.glob("engines/litert-lm-*/*/*.json")
            data.chmod(0o600)
            damage(data, record)
            said = answer(bundle, cache)
            tried, wrong = tried + 1, wrong + (said != want)
            click.echo(f"{'same answer' if said == want else 'WRONG: ' + said}\t{name}")
    click.echo(f"{tried} ways, {wrong} wrong answers")
    if wrong:
        raise G3nError(f"{wrong} of {tried} damages changed the answer")


def _change(path: Path, at: int, count: int) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        old = file.read(count)
        file.seek(at)
        file.write(bytes(b ^ 0x15 for b in old))


def _scatter(path: Path, count: int, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(count):
        content[draw.randrange(len(content))] = draw.randrange(256)
    path.write_bytes(content)


def _halves(content: bytes) -> bytes:
    return content[len(content) // 2 :] + content[: len(content) // 2]


def _linked(path: Path) -> None:
    copy = path.with_name("copy")
    shutil.copyfile(path, copy)
    _change(copy, copy.stat().st_size // 2, 4096)
    path.unlink()
    path.symlink_to(copy.name)


def _record(path: Path, **changes: str) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")


if __name__ == "__main__":
    main()

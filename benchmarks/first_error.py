"""How long a person waits for the first error about a checkpoint, and for what the doctor says of it.

    python benchmarks/first_error.py CHECKPOINT WORK

CHECKPOINT is a folder of true size, for example a random one; where it has no tokenizer, one of its vocabulary is made.
WORK takes links to its files and, for the two cases that need them, copies of one shard and of the token table. Each
figure is the wall time of a command in a process of its own, imports included.
"""

from __future__ import annotations

import hashlib
import json
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from g3n_compiler.checkpoint.safetensors import SafetensorsFile
from g3n_compiler.checkpoint.survey import survey
from g3n_compiler.nano import checkpoint_dir

COMPILE = [sys.executable, "-m", "g3n_compiler.cli.compile"]
INSPECT = [sys.executable, "-m", "g3n_compiler.cli.inspect"]
TABLE = "model.language_model.embed_tokens.weight"
SPECIAL = {
    "<start_of_image>": 255_999, "<start_of_audio>": 256_000, "<end_of_image>": 262_144, "<image_soft_token>": 262_145,
    "<end_of_audio>": 262_272, "<audio_soft_token>": 262_273,
}  # fmt: skip
"""The published ids of the tokens around pictures and sounds."""
PLAIN = 262_144
BLOCK = 1 << 20


def write_tokenizer(folder: Path) -> None:
    """Nano's tokenizer, filled up with unions of its own tokens to the published size, all their merges listed."""
    spec = json.loads((checkpoint_dir() / "tokenizer.json").read_text(encoding="utf-8"))
    nano: dict[str, int] = spec["model"]["vocab"]
    added = [t for t in spec["added_tokens"] if t["content"] not in SPECIAL and t["id"] < 4094]
    special = {t["content"] for t in spec["added_tokens"]}
    vocab = {token: id for token, id in nano.items() if id < 4094 and (token not in special or token in nano)}
    words = [token for token in vocab if token not in special and not re.fullmatch("<0x..>", token)]
    free = iter([i for i in range(4094, PLAIN) if i not in SPECIAL.values()])
    for first in words:
        for second in words:
            if first + second not in vocab and (id := next(free, None)) is not None:
                vocab[first + second] = id
    plain = set(vocab) - special
    merges = spec["model"]["merges"]
    listed = {tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in merges}
    for token in sorted(plain, key=vocab.__getitem__):  # a new token can also be a half of an old one
        halves = [(token[:i], token[i:]) for i in range(1, len(token)) if token[:i] in plain and token[i:] in plain]
        merges += [list(pair) for pair in halves if pair not in listed]
    like = added[5]
    spec["added_tokens"] = sorted(
        [*added, *({**like, "content": token, "id": id} for token, id in SPECIAL.items())], key=lambda t: t["id"]
    )
    spec["model"]["vocab"] = {t: i for t, i in vocab.items() if t not in SPECIAL} | SPECIAL
    (folder / "tokenizer.json").write_text(json.dumps(spec, ensure_ascii=False), encoding="utf-8")
    for name in ("tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(checkpoint_dir() / name, folder / name)


def linked(checkpoint: Path, folder: Path) -> Path:
    """A folder with copies of the small files and links to the others."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in checkpoint.iterdir():
        if path.suffix == ".safetensors":
            (folder / path.name).symlink_to(path.resolve())
        elif path.is_file():
            shutil.copyfile(path, folder / path.name)
    return folder


def edit(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    value = json.loads((folder / name).read_text(encoding="utf-8"))
    change(value)
    (folder / name).write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def plant_nan(folder: Path) -> None:
    """A NaN in the last tensor that is read, the worst place; shared layers' keys and values are not."""
    path = max(folder.glob("*.safetensors"))
    whole = path.resolve()
    path.unlink()
    shutil.copyfile(whole, path)
    file = SafetensorsFile(path)
    read = [e for name, e in file.entries.items() if e.is_float and not re.search(r"self_attn\.[kv]_", name)]
    last = max(read, key=lambda e: e.offset)
    file.close()
    with path.open("r+b") as raw:
        raw.seek(last.offset + last.nbytes - 2)
        raw.write(b"\xc0\x7f")


def plant_head(folder: Path) -> None:
    """A head that equals the token table, in a shard of its own."""
    index = folder / "model.safetensors.index.json"
    source = SafetensorsFile((folder / json.loads(index.read_text(encoding="utf-8"))["weight_map"][TABLE]).resolve())
    entry = source.entries[TABLE]
    header = json.dumps(
        {"lm_head.weight": {"dtype": entry.kind, "shape": entry.shape, "data_offsets": [0, entry.nbytes]}}
    ).encode()
    header += b" " * (-len(header) % 8)
    with (folder / "model-head.safetensors").open("wb") as out:
        out.write(np.uint64(len(header)).tobytes() + header)
        for at in range(0, entry.nbytes, BLOCK):
            buffer = bytearray(min(BLOCK, entry.nbytes - at))
            source.fill(memoryview(buffer), entry.offset + at)
            out.write(buffer)
    source.close()
    edit(folder, index.name, lambda i: i["weight_map"].update({"lm_head.weight": "model-head.safetensors"}))


def timed(command: list[str], what: str) -> float:
    begun, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    errors = [line for line in done.stderr.splitlines() if line.startswith(("error", "Error"))]
    said = (errors or done.stderr.splitlines()[-1:] or done.stdout.splitlines()[-1:] or [""])[-1]
    click.echo(f"{what:44} {seconds:7.1f} s, {cpu:6.1f} s of CPU  exit {done.returncode}  {said[:150]}")
    return seconds


def in_process(what: str, work: Callable[[], object]) -> None:
    begun, used = time.perf_counter(), time.process_time()
    work()
    wall, cpu = time.perf_counter() - begun, time.process_time() - used
    click.echo(f"{what:44} {wall:7.1f} s, {cpu:6.1f} s of CPU")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _survey(path: Path) -> str:
    file = SafetensorsFile(path)
    try:
        return survey(file).sha256
    finally:
        file.close()


def compile_at(folder: Path, work: Path, *options: str) -> list[str]:
    return [*COMPILE, "--checkpoint", str(folder), "--runtime", "both", "--out", str(work / "bundle"), *options]


@click.command(help=__doc__)
@click.argument("checkpoint", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
def main(checkpoint: Path, work: Path) -> None:
    whole = linked(checkpoint, work / "whole")
    if not (whole / "tokenizer.json").exists():
        write_tokenizer(whole)
    shards = sorted(path.resolve() for path in whole.glob("*.safetensors"))
    click.echo(f"weights: {sum(path.stat().st_size for path in shards) / 1e9:.2f} GB")
    errors: dict[str, Callable[[Path], object]] = {
        "config.json: scaled RoPE": lambda f: edit(
            f, "config.json", lambda c: c["text_config"].update(rope_scaling={"rope_type": "linear", "factor": 2.0})
        ),
        "weights' headers: another FFN width": lambda f: edit(
            f, "config.json", lambda c: c["text_config"].update(intermediate_size=4096)
        ),
        "tokenizer: an id that it lacks": lambda f: edit(
            f, "generation_config.json", lambda c: c.update(eos_token_id=[1, 262_300])
        ),
        "template: without bos": lambda f: (f / "chat_template.jinja").write_text("{{ messages[0]['content'] }}"),
        "tokenizer_config: a token that is not there": lambda f: edit(
            f, "tokenizer_config.json", lambda c: c.update(additional_special_tokens=["<tool>"])
        ),
    }
    for what, spoil in errors.items():
        if "a token that is not there" in what:
            continue  # it is found after hashing, with the prompts
        folder = linked(whole, work / "spoiled")
        spoil(folder)
        timed(compile_at(folder, work), what)
    timed([*INSPECT, "--checkpoint", str(whole)], "g3n-inspect --checkpoint")
    timed([*INSPECT, "--checkpoint", str(whole), "--weights"], "g3n-inspect --checkpoint --weights")
    folder = linked(whole, work / "head")
    plant_head(folder)
    timed([*INSPECT, "--checkpoint", str(folder)], "the same, with a stored head to compare")
    shutil.rmtree(folder)
    in_process("plain hashing", lambda: [_digest(path) for path in shards])
    in_process("the compile's one reading of the weights", lambda: [_survey(path) for path in shards])
    folder = linked(whole, work / "nan")
    plant_nan(folder)
    timed(compile_at(folder, work), "NaN in the last tensor, found while hashing")
    shutil.rmtree(folder)
    folder = linked(whole, work / "spoiled")
    errors["tokenizer_config: a token that is not there"](folder)
    timed(compile_at(folder, work), "prompts: a token that transformers adds")


if __name__ == "__main__":
    main()

"""The hub's official client against a server that answers as the hub does: what is fetched, resumed, kept and said.

The real hub is not asked by any test.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.network.hub_server import COMMIT, Hub, Repository, serving

SHARDS = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
CHECKPOINT = {
    "config.json": b'{"model_type": "gemma3n"}',
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1]}}).encode(),
    SHARDS[0]: b"first" * 30_000,
    SHARDS[1]: b"second" * 60_000,
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ x }}",
    "additional_chat_templates/tools.jinja": b"{{ y }}",
    "modeling_gemma3n.py": b"import os",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"other weights",
    "onnx/model.safetensors": b"other weights",
    "README.md": b"# hello",
}
WANTED = set(CHECKPOINT) - {
    "modeling_gemma3n.py", "pytorch_model.bin", "consolidated.safetensors", "onnx/model.safetensors", "README.md"
}  # fmt: skip
ADAPTER = {
    "adapter_config.json": b"{}",
    "adapter_model.safetensors": b"weights",
    "adapter_model.bin": b"pickle",
    "chat_template.jinja": b"{{ messages }}",
    "checkpoint-500/optimizer.pt": b"pickle",
}
PROGRAM = """
import json, os, sys
from g3n_compiler.checkpoint import hub, hub_download
from g3n_compiler.checkpoint.hub_id import folder_or_hub
from g3n_runtime.errors import G3nError

def work(wanted, out):
    for name, kind in wanted:
        lines = []
        try:
            told = {"folder": str(hub.resolve(folder_or_hub(name), kind, lines.append))}
        except G3nError as error:
            told = {"error": str(error), "kind": type(error).__name__, "code": error.exit_code}
        except KeyboardInterrupt:
            told = {"interrupted": True}
        out.write(json.dumps(told | {"said": lines}) + "\\n")
        out.flush()

assert "huggingface_hub" not in sys.modules  # it reads the environment when it is imported
print("ready", flush=True)
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        os.environ.update(order["environment"])
        os.chdir(order["folder"])
        with open(order["out"], "w") as out:
            work(order["wanted"], out)
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("done", flush=True)
"""
Told = dict[str, Any]


@pytest.fixture(scope="module")
def forks() -> Iterator[subprocess.Popen[str]]:
    """A process that has everything imported but the hub's client, and forks for each order."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment = kept | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "HF_TOKEN_PATH": os.devnull}
    command, pipe = [sys.executable, "-c", PROGRAM], subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


class Machine:
    """A home with the hub's cache in it."""

    def __init__(self, home: Path, url: str, forks: subprocess.Popen[str]) -> None:
        self.home, self.url, self._forks = home, url, forks
        self._answers = home.parent / f"{home.name}.answers"

    def start(self, *wanted: tuple[str, str], **settings: str) -> int:
        """Begin to resolve names in a process of its own, whose id is returned: the client reads settings once."""
        environment = {"HF_HOME": str(self.home), "HF_ENDPOINT": self.url, **settings}
        order = {"wanted": wanted, "environment": environment, "folder": str(self.home), "out": str(self._answers)}
        assert self._forks.stdin is not None and self._forks.stdout is not None
        self._forks.stdin.write(json.dumps(order) + "\n")
        self._forks.stdin.flush()
        return int(self._forks.stdout.readline())

    def answers(self) -> list[Told]:
        """Wait for what was begun."""
        assert self._forks.stdout is not None and self._forks.stdout.readline() == "done\n"
        return [json.loads(line) for line in self._answers.read_text().splitlines()]

    def resolve(self, *wanted: tuple[str, str], **settings: str) -> list[Told]:
        """What each of the names came to."""
        self.start(*wanted, **settings)
        told = self.answers()
        assert len(told) == len(wanted)
        return told

    def files(self, repository: str) -> set[str]:
        """Files of the only snapshot of a repository in the cache."""
        (folder,) = (self.home / "hub" / f"models--{repository.replace('/', '--')}" / "snapshots").iterdir()
        return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}

    def unfinished(self) -> list[Path]:
        return list(self.home.rglob("*.incomplete"))


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as server:
        server.repositories["me/tuned"] = Repository(dict(CHECKPOINT))
        yield server


@pytest.fixture
def machine(hub: Hub, tmp_path: Path, forks: subprocess.Popen[str]) -> Machine:
    return Machine(tmp_path, hub.url, forks)


def test_only_what_is_read_is_fetched_and_only_once(hub: Hub, machine: Machine) -> None:
    hub.repositories["me/adapter"] = Repository(dict(ADAPTER))
    hub.repositories["me/single"] = Repository({**CHECKPOINT, "model.safetensors": b"all"}, revisions=("main", "v2"))
    first, adapter, single = machine.resolve(
        ("me/tuned", "checkpoint"), ("me/adapter", "adapter"), ("me/single@v2", "checkpoint")
    )
    folder = Path(first["folder"])
    assert folder.name == COMMIT and machine.files("me/tuned") == WANTED
    assert all((folder / name).read_bytes() == CHECKPOINT[name] for name in WANTED)
    assert machine.files("me/adapter") == {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"}
    assert "model.safetensors" in machine.files("me/single") and not machine.files("me/single") & set(SHARDS)
    assert "model.safetensors.index.json" not in machine.files("me/single")
    assert first["said"] == ["asking the hub for me/tuned", "fetching me/tuned at 0123456789ab: 0.5 MB"]
    assert {"folder"} <= adapter.keys() & single.keys()
    hub.asked.clear()
    (again,) = machine.resolve(("me/tuned", "checkpoint"))
    assert again["folder"] == first["folder"] and not any(hub.got(name) for name in CHECKPOINT)
    (pinned,) = machine.resolve((f"me/tuned@{COMMIT}", "checkpoint"))
    assert pinned["folder"] == first["folder"] and not any(hub.got(name) for name in CHECKPOINT)


def test_a_broken_connection_is_continued_where_it_broke(hub: Hub, machine: Machine) -> None:
    large = bytes(range(256)) * 100_000  # the client keeps what came in pieces of 10 MB
    hub.repositories["me/tuned"].files[SHARDS[1]] = large
    hub.repositories["me/tuned"].breaks[SHARDS[1]] = 1
    hub.repositories["me/tuned"].slow[SHARDS[1]] = 0.004
    (told,) = machine.resolve(("me/tuned", "checkpoint"))
    assert (Path(told["folder"]) / SHARDS[1]).read_bytes() == large
    assert any(re.search(r": \d+\.\d MB of 25\.8 MB \(4\d%\)$", line) for line in told["said"]), told["said"]
    whole, rest = hub.got(SHARDS[1])
    assert whole is None and rest is not None and int(rest.removeprefix("bytes=").rstrip("-")) > 0


def test_ctrl_c_costs_no_finished_file(hub: Hub, machine: Machine) -> None:
    hub.repositories["me/tuned"].slow[SHARDS[1]] = 1.0
    process = machine.start(("me/tuned", "checkpoint"))
    deadline = time.monotonic() + 60
    while not hub.got(SHARDS[1]) and time.monotonic() < deadline:
        time.sleep(0.02)
    begun = time.monotonic()
    os.kill(process, signal.SIGINT)
    assert machine.answers()[0]["said"] and time.monotonic() - begun < 60
    assert machine.unfinished() == [] and machine.files("me/tuned") == WANTED - {SHARDS[1]}
    (part,) = machine.resolve(("me/tuned", "checkpoint"), HF_HUB_OFFLINE="1")
    assert part["kind"] == "PartialCopy" and SHARDS[1] in part["error"] and SHARDS[0] not in part["error"]
    (part,) = machine.resolve(("me/tuned", "checkpoint"), HF_ENDPOINT="http://127.0.0.1:9")
    assert "cannot be reached" in part["error"] and f"only a part of me/tuned: it lacks {SHARDS[1]}" in part["error"]
    hub.repositories["me/tuned"].slow.clear()
    hub.asked.clear()
    (told,) = machine.resolve(("me/tuned", "checkpoint"))
    assert "folder" in told and hub.got(SHARDS[0]) == [] and hub.got(SHARDS[1]) == [None]


def test_without_a_network_the_cache_is_enough(hub: Hub, machine: Machine) -> None:
    machine.resolve(("me/tuned", "checkpoint"))
    nowhere = "http://127.0.0.1:9"
    asked = (("me/tuned", "checkpoint"), (f"me/tuned@{COMMIT}", "checkpoint"), ("me/other", "checkpoint"))
    tuned, pinned, other = machine.resolve(*asked, HF_ENDPOINT=nowhere)
    assert Path(tuned["folder"]).name == COMMIT == Path(pinned["folder"]).name
    assert any("the copy of commit 0123456789ab in the cache is taken" in line for line in tuned["said"])
    assert other["code"] == 18 and "the hub cannot be reached for me/other" in other["error"]
    hub.asked.clear()
    tuned, pinned, other = machine.resolve(*asked, HF_HUB_OFFLINE="1")
    assert Path(tuned["folder"]).name == COMMIT == Path(pinned["folder"]).name
    assert "me/other is not in the hub's cache" in other["error"] and "HF_HUB_OFFLINE is set" in other["error"]
    assert hub.asked == []


def test_a_part_that_another_program_fetched_is_not_taken_for_the_whole(hub: Hub, machine: Machine) -> None:
    folder = machine.home / "hub" / "models--me--tuned" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors.index.json", SHARDS[0], SHARDS[1]):
        (folder / name).write_bytes(CHECKPOINT[name])
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text(COMMIT)
    (told,) = machine.resolve(("me/tuned", "checkpoint"), HF_HUB_OFFLINE="1")
    assert told["kind"] == "PartialCopy" and "nobody asked whether the repository has" in told["error"]
    (folder / SHARDS[0]).unlink()
    (told,) = machine.resolve(("me/tuned", "checkpoint"), HF_HUB_OFFLINE="1")
    assert f"it lacks {SHARDS[0]}" in told["error"]


def refusals() -> dict[str, tuple[Repository, str, str, int, str]]:
    """A repository, what is asked of it, the kind, the exit code and a part of the message, by name."""
    whole = dict(CHECKPOINT)
    gate = {"X-Error-Code": "GatedRepo"}
    limit = (429, {"Retry-After": "42"})
    pickles = {"config.json": b"{}", "pytorch_model.bin": b"pickle"}
    index = json.dumps({"weight_map": {"a": "../../secret.safetensors"}}).encode()
    return {
        "me/gated": (Repository(whole, refuse_files=(401, gate)), "", "checkpoint", 18, "accept its licence on the"),
        "me/gated403": (Repository(whole, refuse=(403, gate)), "", "checkpoint", 18, "accept its licence on the model"),
        "me/nologin": (Repository(refuse=(401, {})), "", "checkpoint", 18, "misspelt, or it is private"),
        "me/forbidden": (Repository(refuse=(403, {})), "", "checkpoint", 18, "your login may not read"),
        "me/old": (Repository(whole), "@v9", "checkpoint", 18, "has no revision 'v9'"),
        "me/busy": (Repository(refuse=limit), "", "checkpoint", 18, "try again in 42 seconds"),
        "me/down": (Repository(refuse=(503, {})), "", "checkpoint", 18, "fails at the moment (503)"),
        "me/pickles": (Repository(pickles), "", "checkpoint", 10, "(it has .bin): only safetensors are read"),
        "me/adapter": (Repository(dict(ADAPTER)), "", "checkpoint", 10, "it is an adapter, which --lora takes"),
        "me/whole": (Repository(whole), "", "adapter", 10, "it is a checkpoint, which --checkpoint takes"),
        "me/huge": (Repository(whole, claimed={SHARDS[0]: 10**18}), "", "checkpoint", 30, "1000000000.0 GB"),
        "me/escape": (
            Repository({**whole, "model.safetensors.index.json": index}), "", "checkpoint", 10,
            "which the repository does not have",
        ),
    }  # fmt: skip


def test_each_refusal_says_what_to_do(hub: Hub, machine: Machine) -> None:
    cases = refusals()
    hub.repositories |= {name: case[0] for name, case in cases.items()}
    asked = [(f"{name}{case[1]}", case[2]) for name, case in cases.items()]
    for name, told in zip(cases, machine.resolve(*asked, ("me/none", "checkpoint")), strict=False):
        _, _, _, code, part = cases[name]
        assert told.get("code") == code and part in told["error"], (name, told)
        assert "http" not in told["error"] and "\n" not in told["error"], (name, told)
    assert not [m for m, path, _ in hub.asked if m == "GET" and path.endswith(SHARDS[0])], "weights before a refusal"
    assert machine.unfinished() == []
    wrong = {"X-Error-Message": "Invalid credentials in Authorization header"}
    hub.repositories["me/expired"] = Repository(refuse=(401, wrong))
    expired, none, gated = machine.resolve(
        ("me/expired", "checkpoint"), ("me/none", "checkpoint"), ("me/gated", "checkpoint"), HF_TOKEN="hf_of_nobody"
    )
    assert "refused your login" in expired["error"] and "may not see it" in none["error"]
    assert "the account that you are logged in with" in gated["error"]


def test_a_folder_wins_and_paths_are_paths(hub: Hub, machine: Machine) -> None:
    (machine.home / "me" / "tuned").mkdir(parents=True)
    (machine.home / "me" / "file").write_text("")
    wanted = ("me/tuned", "./me/other", "me/other/deep", "me/file", "other", "../x/y", "me/a..b", "a--b/c", "me/x@")
    told = machine.resolve(*((name, "checkpoint") for name in wanted))
    assert told[0]["folder"] == "me/tuned"
    assert "is not a folder" in told[3]["error"]
    for name, one in zip(wanted[1:], told[1:], strict=True):
        assert one["code"] == 10 and one["kind"] == "CheckpointError", (name, one)
        assert name == "me/file" or str(machine.home) in one["error"] or ".." in name, (name, one)
    assert hub.asked == []

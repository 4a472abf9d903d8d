"""What a named checkpoint is called, where it came from, and that nothing is asked of the hub once it is there."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from g3n_compiler.checkpoint.hub import checkpoint_name, compiled_from, name_size, resolve_checkpoint
from g3n_compiler.checkpoint.hub_id import HubId, called, folder_or_hub, hub_origin, named_by
from g3n_compiler.checkpoint.meter import Meter
from g3n_compiler.errors import CheckpointError, HubError

COMMIT = "ab" * 20
OFFLINE = """
import sys
from g3n_compiler.checkpoint.hub import stay_offline
stay_offline()
def refuse(event, arguments):
    if event.startswith("socket."):
        raise SystemExit(f"{event} {arguments}")
sys.addaudithook(refuse)
import os
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled
try:
    HfApi(endpoint="http://127.0.0.1:9").model_info("me/tuned")
except OfflineModeIsEnabled:
    print("refused", os.environ["HF_HUB_OFFLINE"])
"""


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("me/tuned", HubId("me/tuned")),
        ("me/tuned@v1.0", HubId("me/tuned", "v1.0")),
        ("me/tuned@refs/pr/7", HubId("me/tuned", "refs/pr/7")),
        (f"google/gemma-3n-E2B-it@{COMMIT}", HubId("google/gemma-3n-E2B-it", COMMIT)),
        ("./me/tuned", Path("me/tuned")),
        ("me/tuned/", Path("me/tuned")),
        ("tuned", Path("tuned")),
        ("me/tuned@", Path("me/tuned@")),
        ("me/tuned@../x", Path("me/tuned@../x")),
        ("me/" + "x" * 96, Path("me/" + "x" * 96)),
        ("mé/tuned", Path("mé/tuned")),
    ],
)
def test_what_is_a_repository_and_what_a_path(
    text: str, named: Path | HubId, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert folder_or_hub(text) == named == named_by(text) and named_by(None) is None
    assert isinstance(named, Path) or str(named) == text
    (tmp_path / text).mkdir(parents=True)
    assert folder_or_hub(text) == Path(text)


def test_a_repository_is_called_by_its_name(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--me--tuned" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    assert called(HubId("me/tuned", "v1")) == called(snapshot) == "tuned" and called(tmp_path) == tmp_path.name
    assert checkpoint_name("custom", HubId("me/tuned")) == "tuned" and checkpoint_name("nano", None) == "nano"
    assert hub_origin(snapshot) == HubId("me/tuned", COMMIT)
    assert hub_origin(tmp_path) is None and hub_origin(Path("/")) is None
    assert hub_origin(tmp_path / "datasets--me--tuned" / "snapshots" / COMMIT) is None


def test_a_bundle_leads_to_its_own_commit_but_to_no_strangers_repository() -> None:
    google = HubId("google/gemma-3n-E2B-it", COMMIT)
    assert compiled_from("e2b", google) == google and compiled_from("e2b", None) is None
    assert compiled_from("nano", google) is None
    with pytest.raises(HubError, match=f"pass --checkpoint evil/model@{COMMIT}"):
        compiled_from("custom", HubId("evil/model", COMMIT))
    with pytest.raises(HubError, match="if you trust that"):
        compiled_from("e2b", HubId("evil/model", COMMIT))


def test_what_cannot_be_found_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=rf"no folder gemma \(looked for {tmp_path}/gemma\)"):
        resolve_checkpoint("custom", Path("gemma"))
    with pytest.raises(CheckpointError, match="which me/tuned@v1 is not"):
        name_size("nano", HubId("me/tuned", "v1"))
    assert name_size(None, HubId("me/tuned")) == "custom"


def test_nothing_is_asked_once_the_checkpoint_is_there() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    command = [sys.executable, "-c", OFFLINE]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == "refused 1\n", done.stderr


def test_progress_is_a_line_now_and_then() -> None:
    for pause, count in ((0.001, 1), (0.1, 10), (7.0, 112)):
        lines: list[str] = []
        meter = Meter("fetching", 1_000_000_000, lines.append, itertools.count(0, pause).__next__)
        for _ in range(1000):
            meter.add(1_000_000)
        assert lines[0] == "fetching: 1.0 GB" and len(lines) == count, pause
        assert pause != 0.1 or lines[1] == "fetching: 0.1 GB of 1.0 GB (10%)"

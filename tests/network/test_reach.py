"""A compile reaches nowhere: no internet, and no file but below --out, beside it, TMPDIR and our cache folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import make_tiny

PLANTED = (".ses", "torchinductor_root", "deviceid", "matplotlib")
"""Names that libraries took in TMPDIR, here links to a place of somebody else's."""
SENT = re.compile(r"\b(?:connect|sendto|sendmsg|sendmmsg|bind)\(.*sa_family=AF_INET6?, (?!.*(?:127\.0\.0\.1|\"::1\"))")
SESSION = """
from g3n_compiler.verify.onnx.export import OnnxSession, export_onnx
from g3n_runtime.libraries import house_libraries
house_libraries()
import torch
import g3n_compiler.report.plots
class Twice(torch.nn.Module):
    def forward(self, x): return {"y": x + x}
model = export_onnx(Twice().eval(), {"x": torch.ones(2)}, ["y"])
print(OnnxSession(model)({"x": torch.ones(2).numpy()})["y"])
"""


class Place:
    """A home, a TMPDIR and a working folder of their own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("home", "tmp", "work", "elsewhere"):
            (root / name).mkdir()
        for name in PLANTED:
            (root / "tmp" / name).symlink_to(root / "elsewhere" / name)

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        dropped = ("XDG_", "G3N_", "MPL", "TORCHINDUCTOR", "TRITON", "HF_", "ORT_")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
        environment = kept | {"HOME": str(self.root / "home"), "TMPDIR": str(self.root / "tmp")}
        # The interpreter's own path, so that code is found from any working folder.
        environment["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
        return subprocess.run(
            words, cwd=self.root / "work", env=environment, capture_output=True, text=True, timeout=600, check=False
        )

    def files(self) -> set[str]:
        """All files and links, folders left out."""
        return {str(p.relative_to(self.root)) for p in self.root.rglob("*") if p.is_symlink() or not p.is_dir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    root = tmp_path / "place"
    root.mkdir()
    return Place(root)


def without_network() -> list[str]:
    """What runs a command without any network, where this user may."""
    for words in (["unshare", "-n"], ["unshare", "-rn"]):
        if (
            shutil.which("unshare")
            and subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0
        ):
            return words
    return []


def traced(trace: Path) -> list[str]:
    """What runs a command and writes down what it asks of the network, where there is strace."""
    return (
        ["strace", "-f", "--seccomp-bpf", "-qq", "-e", "trace=network", "-o", str(trace)]
        if shutil.which("strace")
        else []
    )


def test_no_library_reports_or_leaves_files(place: Place) -> None:
    before = place.files()
    trace = place.root.parent / "trace"
    done = place.run(*without_network(), *traced(trace), sys.executable, "-c", SESSION)
    assert done.returncode == 0 and "2." in done.stdout, done.stderr
    made = {f for f in place.files() - before if not f.startswith("home/.cache/g3n/")}
    assert made == set()
    assert not list((place.root / "elsewhere").iterdir())
    assert not trace.exists() or not SENT.search(trace.read_text(errors="replace"))


def test_a_compile_reaches_nowhere(place: Place) -> None:
    model = make_tiny(
        place.root.parent / "checkpoint",
        num_hidden_layers=3,
        num_kv_shared_layers=1,
        activation_sparsity_pattern=[0.0] * 3,
        layer_types=["sliding_attention", "full_attention", "full_attention"],
    )
    before = place.files()
    trace = place.root.parent / "trace"
    arguments = (
        "--checkpoint",
        str(model.directory),
        "--out",
        "out/bundle",
        "--runtime",
        "litert",
        "--modalities",
        "text",
    )
    done = place.run(
        *without_network(), *traced(trace), sys.executable, "-m", "g3n_compiler.cli.compile",
        *arguments, "--context", "64", "--prefill-lengths", "16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = place.files() - before
    assert {f for f in made if not f.startswith(("work/out/bundle/", "home/.cache/g3n/"))} == set()
    assert not list((place.root / "elsewhere").iterdir())
    assert not trace.exists() or not SENT.search(trace.read_text(errors="replace"))

"""What SECURITY.md claims and no other test holds."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from g3n_compiler.bundle.signing import sign_bundle
from g3n_compiler.checkpoint.hub_download import is_fetched
from tests.android.golden import DIRECTORY
from tests.android.signed import KEY, signed_vectors

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
SOURCES = sorted(p for folder in ("compiler", "runtime_shims") for p in (ROOT / folder).rglob("*.py"))
LOADERS_OF_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def test_every_test_that_the_page_names_is_there() -> None:
    paths = re.findall(r"`((?:tests|android_app)/[\w/]+\.py)`", PAGE)
    assert len(paths) > 10 and [p for p in paths if not (ROOT / p).is_file()] == []
    for name in re.findall(r"`(test_\w+)`", PAGE):
        assert any(f"def {name}(" in p.read_text(encoding="utf-8") for p in (ROOT / "tests").rglob("*.py")), name
    assert list((ROOT / "android_app").rglob("SignatureTest.kt"))


@pytest.mark.parametrize(
    "name",
    [
        "modeling_gemma3n.py", "pytorch_model.bin", "model.pt", "model.pkl", "run.sh", "model.ckpt", "lib.so",
        "original/params.json", "onnx/model.safetensors", "../config.json", "/config.json", ".json", "a\n.json",
    ],
)  # fmt: skip
def test_what_is_downloaded_holds_no_code(name: str) -> None:
    assert not is_fetched(name) and is_fetched("config.json") and is_fetched("model-00001-of-00002.safetensors")


def test_no_source_loads_pickles_or_a_checkpoints_code() -> None:
    found = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                found += [f"{path}: {name}" for name in names if name.split(".")[0] in LOADERS_OF_CODE]
            elif isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "allow_pickle"):
                if not (isinstance(node.value, ast.Constant) and node.value.value is False):
                    found.append(f"{path}: {node.arg}")
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("torch.load", "torch.jit.load", "eval", "exec", "os.system"):
                    found.append(f"{path}: {called}")
    assert found == []


def test_verifying_opens_no_socket(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    vectors = signed_vectors(json.loads((DIRECTORY / "manifest_short.json").read_text(encoding="utf-8")))
    for name, text in vectors["files"].items():
        (bundle / name).write_text(text)
    (bundle / "manifest.json").write_text(vectors["manifest"])
    sign_bundle(bundle, json.loads(vectors["manifest"]), KEY)
    code = """
import sys

def refuse(event, arguments):
    if event.startswith("socket."):
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(refuse)
from pathlib import Path
from g3n_runtime.bundle import open_bundle
from g3n_runtime.signature import check_signature

print(check_signature(open_bundle(Path(sys.argv[1]))).fingerprint)
"""
    command = [sys.executable, "-c", code, str(bundle)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == KEY.public.fingerprint, result.stderr

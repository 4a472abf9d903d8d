"""The compile flow of a checkpoint with a vision tower, with a fake backend: what is written, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from g3n_compiler.compile import CompileOptions, compile_bundle
from g3n_compiler.errors import ParityError, TargetError, WrongModel
from g3n_compiler.verify import run as verify_run
from g3n_compiler.verify import vision
from g3n_compiler.verify.checks import Check
from g3n_runtime.bundle import open_bundle
from g3n_runtime.litert.media import MediaFrontEnd
from tests.fakes import FakeBackend
from tests.vision.conftest import Multimodal


@pytest.fixture(autouse=True)
def without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime's part is slow and has its own test."""
    check = Check("held", "core", "onnxruntime", "eager fp32", "relative error", 0.0, 1.0)
    monkeypatch.setattr(verify_run, "onnx_checks", lambda *_: [check])

    def eager(source: Any, config: Any, image: np.ndarray) -> np.ndarray:
        return vision.VisionReference(source, config).embed(image)

    monkeypatch.setattr(vision, "onnx_embed", eager)


class VisionBackend(FakeBackend):
    modalities = ("text", "vision")


class Blind(FakeBackend):
    modalities = ("text",)


def compile_small(
    model: Multimodal, out: Path, modalities: tuple[str, ...] | None = ("text", "vision"), **options: Any
) -> Path:
    fake = {k: options.pop(k) for k in ("error",) if k in options}
    backend: type[FakeBackend] = options.pop("backend", VisionBackend)
    chosen = CompileOptions(
        **{"recipe": "fp32", "context": 400, "resolutions": (256,), "runtime": "litert", **options},
        checkpoint=model.directory,
        modalities=modalities,
        out=out,
    )
    return compile_bundle(chosen, lambda line: None, lambda runtime: backend(runtime, **fake))


def test_manifest_of_a_bundle_with_vision(multimodal: Multimodal, tmp_path: Path) -> None:
    bundle = open_bundle(compile_small(multimodal, tmp_path / "bundle"))
    manifest = bundle.manifest
    assert manifest["model"]["modalities"] == ["text", "vision"]
    assert manifest["vision"] == {"image_sizes": [256], "soft_tokens": 256, "resample": "bilinear"}
    assert MediaFrontEnd.of(bundle) == MediaFrontEnd(256, "bilinear")
    placed = {s["name"]: s for s in manifest["subgraphs"]}
    assert placed["vision_encoder"]["parity"] < 1e-4 and placed["vision_adapter"]["device"] == "cpu"
    memory = manifest["memory"]["litert"]
    assert {"name": "vision", "bytes": 1000, "kind": "on demand"} in memory["parts"]
    assert memory["peak"]["vision"] == memory["peak"]["load"] + 1000
    checked = {c["runtime"] for c in manifest["parity"]["checks"] if c["subgraph"] == "vision_encoder"}
    assert checked == {"eager", "onnxruntime", "litert"}
    left = manifest["provenance"]["left_out"]
    assert left and all("audio" in name for name in left)


def test_a_wrong_tower_leaves_no_bundle(multimodal: Multimodal, tmp_path: Path) -> None:
    with pytest.raises(ParityError, match="vision_encoder"):
        compile_small(multimodal, tmp_path / "out" / "bundle", error=0.2)
    assert not list((tmp_path / "out").iterdir())


def test_text_alone_keeps_its_table(multimodal: Multimodal, tmp_path: Path) -> None:
    manifest = open_bundle(compile_small(multimodal, tmp_path / "bundle", ("text",), resolutions=None)).manifest
    assert manifest["model"]["modalities"] == ["text"] and manifest["vision"] is None
    assert any("vision_tower" in name for name in manifest["provenance"]["left_out"])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        pytest.param({"resolutions": (300,)}, WrongModel, "256, 512, 768", id="a size that does not pool"),
        pytest.param({"modalities": ("text",)}, TargetError, "--image-sizes", id="sizes without a tower"),
        pytest.param({"backend": Blind}, TargetError, "no vision yet", id="a runtime without towers"),
    ],
)
def test_what_cannot_be_compiled_is_refused(
    options: dict[str, Any], error: type[Exception], match: str, multimodal: Multimodal, tmp_path: Path
) -> None:
    with pytest.raises(error, match=match):
        compile_small(multimodal, tmp_path / "b", **options)

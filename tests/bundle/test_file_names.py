"""Files that people move into other apps tell what is in them."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from g3n_compiler.bundle.names import MAX_STEM, file_stem
from g3n_compiler.checkpoint.hub_id import HubId
from g3n_compiler.compile import compile_bundle
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.request.options import CompileOptions
from g3n_compiler.slice.choose import Choice
from g3n_compiler.slice.plan import Slice
from g3n_runtime.bundle import open_bundle
from tests.conftest import TinyModel
from tests.fakes import FakeBackend
from tests.jobs import make_job

NOTHING = CompileOptions()
SLICE = Choice(Slice((0,), (32,)), None, "a wish")


@pytest.mark.parametrize(
    ("folder", "stem"),
    [
        (None, "gemma-3n-e2b-it"),
        ("My Model_v2", "my-model-v2"),
        ("gemma-3n-E4B-it", "gemma-3n-e4b-it"),
        ("../sub/été;rm -rf", "t-rm-rf"),
        ("…", "model"),
        ("x" * 200, "x" * MAX_STEM),
        ("models--google--gemma-3n-E2B-it/snapshots/0a1b2c", "gemma-3n-e2b-it"),
    ],
)
def test_a_file_is_called_as_its_checkpoint(folder: str | None, stem: str, tmp_path: Path) -> None:
    directory = None if folder is None else tmp_path / folder
    options = replace(NOTHING, checkpoint=directory)
    assert file_stem(options, "e2b", None, RECIPES["int4"]) == f"{stem}-int4"


def test_what_was_made_of_the_checkpoint_is_in_the_name() -> None:
    int8 = RECIPES["int8"]
    assert file_stem(NOTHING, "nano", None, int8) == "nano-int8"
    assert file_stem(NOTHING, "nano", SLICE, int8) == "nano-slice-int8"
    assert file_stem(NOTHING, "e1.96b-layer", replace(SLICE, size="e1.96b-layer"), int8).endswith("-e1.96b-layer-int8")
    assert file_stem(replace(NOTHING, lora=Path("a/My Style")), "nano", None, int8) == "nano-my-style-int8"
    hub = replace(NOTHING, checkpoint=HubId("me/Tuned", "v2"), lora=HubId("you/My_Style"))
    assert file_stem(hub, "custom", None, int8) == "tuned-my-style-int8"
    assert file_stem(replace(NOTHING, elastic=("full",)), "nano", None, int8) == "nano-elastic-int8"


def test_a_backend_is_told_the_name(tiny: TinyModel, tmp_path: Path) -> None:
    told = []

    class Named(FakeBackend):
        def lower(self, job):  # type: ignore[no-untyped-def]
            told.append(job.stem)
            return super().lower(job)

    # Where the hub's client keeps a repository: its name is the file's, and the manifest tells it with the commit.
    snapshot = tmp_path / "models--me--tuned" / "snapshots" / ("0a" * 20)
    shutil.copytree(tiny.directory, snapshot)
    options = CompileOptions(
        checkpoint=snapshot, context=64, prefill_lengths=(16,), out=tmp_path / "out", runtime="litert"
    )
    bundle = open_bundle(compile_bundle(options, lambda line: None, Named))
    assert told == [file_stem(options, "custom", None, RECIPES["int4"])] == ["tuned-int4"]
    assert bundle.manifest["provenance"]["hub"] == {"id": "me/tuned", "revision": "0a" * 20}
    assert bundle.paths == {entry["role"]: bundle.file(entry["role"]) for entry in bundle.manifest["files"]}


def test_a_job_without_a_name_has_a_plain_one(tiny: TinyModel, tmp_path: Path) -> None:
    assert make_job(tiny.open(), tmp_path).stem == "model"

"""Which driver the GPU delegate gets."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from g3n_compiler.compile import compile_bundle
from g3n_compiler.errors import TargetError
from g3n_compiler.request.options import CompileOptions
from g3n_runtime.bundle import Bundle
from g3n_runtime.chat import Placement
from g3n_runtime.engines import ENGINES
from g3n_runtime.errors import EngineError
from g3n_runtime.litert import vulkan
from g3n_runtime.litert.engine import LiteRtEngine
from g3n_runtime.litert.vulkan import CHOSEN, DESCRIPTION, KIT_VARIABLE, LOADER, Driver, find_driver


@pytest.fixture
def kit(tmp_path: Path) -> Path:
    folder = tmp_path / "kit"
    folder.mkdir()
    for name in (LOADER, DESCRIPTION):
        (folder / name).write_text("{}", "utf-8")
    return folder


@pytest.fixture
def no_system_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vulkan, "SYSTEM_FOLDERS", ())


@pytest.mark.usefixtures("no_system_driver")
def test_none_is_found(tmp_path: Path) -> None:
    assert find_driver({}, "linux", tmp_path) is None


@pytest.mark.usefixtures("no_system_driver")
def test_the_kit_is_found_by_its_folder_and_by_its_name(kit: Path, tmp_path: Path) -> None:
    for found in (find_driver({}, "linux", kit), find_driver({KIT_VARIABLE: str(kit)}, "linux", tmp_path)):
        assert found is not None and found.loader == str(kit / LOADER)
        environ: dict[str, str] = {}
        assert found.settings == dict.fromkeys(CHOSEN, str(kit / DESCRIPTION))
        with pytest.raises(EngineError, match="cannot be loaded"):
            found.use(environ)  # the file is no library
        assert environ == found.settings


def test_a_name_that_is_no_kit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="make gpu-kit"):
        find_driver({KIT_VARIABLE: str(tmp_path)}, "linux", tmp_path)


def test_the_systems_driver_goes_before_a_kit_that_nobody_named(
    kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "driver.json").write_text("{}", "utf-8")
    monkeypatch.setattr(vulkan, "SYSTEM_FOLDERS", (tmp_path,))
    found = find_driver({}, "linux", kit)
    assert found is not None and found.name == "the system's Vulkan driver"
    chosen = find_driver({CHOSEN[1]: "/some/driver.json"}, "linux", kit)
    assert chosen is not None and chosen.name == "the Vulkan driver of the environment"
    named = find_driver({KIT_VARIABLE: str(kit)}, "linux", tmp_path)
    assert named is not None and named.name.startswith("SwiftShader")


@pytest.mark.usefixtures("no_system_driver")
def test_a_kit_in_the_users_folder_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is code, and the folder may have come with somebody's checkpoint."""
    planted = tmp_path / "build" / "gpu"
    planted.mkdir(parents=True)
    for name in (LOADER, DESCRIPTION):
        (planted / name).write_text("{}", "utf-8")
    monkeypatch.chdir(tmp_path)
    found = find_driver({}, "linux")
    assert found is None or not str(found.loader).startswith(str(tmp_path))


def test_other_systems_have_their_own_interface(tmp_path: Path) -> None:
    assert find_driver({}, "darwin", tmp_path) == Driver("the system's GPU", None)


def test_a_gpu_without_a_driver_is_an_error_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KIT_VARIABLE, str(tmp_path))
    for placement in (Placement("gpu"), Placement(vision="gpu")):
        with pytest.raises(EngineError, match="make gpu-kit"):
            LiteRtEngine(tmp_path / "any.litertlm", placement=placement)


@pytest.mark.usefixtures("no_system_driver")
def test_a_compile_that_requires_a_gpu_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vulkan, "KIT", tmp_path / "absent")
    monkeypatch.chdir(tmp_path)
    for variable in (KIT_VARIABLE, *CHOSEN):
        monkeypatch.delenv(variable, raising=False)
    steps: list[str] = []
    with pytest.raises(TargetError, match="no Vulkan driver"):
        compile_bundle(CompileOptions("pixel", "nano", require_accelerator=True), steps.append)
    with pytest.raises(TargetError, match="places nothing on a GPU"):
        compile_bundle(CompileOptions("host", "nano", require_accelerator=True), steps.append)
    assert steps == [] and list(tmp_path.iterdir()) == []


def test_executorch_has_no_gpu_here(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="runs on the CPU"):
        ENGINES["executorch"](cast(Bundle, None), 1, Placement("gpu"), None, None)

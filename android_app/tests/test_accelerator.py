"""The app's engine on an accelerator that is missing, broken or there, on this machine's JVM."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from android_app.tests.conftest import run
from android_app.tests.host import PROMPTS, Host, python_answers
from g3n_runtime.litert.vulkan import CHOSEN, find_driver

Make = Callable[[Path, Mapping[str, str]], Host]
BROKEN = Path(__file__).parent / "broken_gpu.cpp"


@pytest.fixture(scope="module")
def broken(litertlm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LiteRT-LM's library on a GPU that takes a bundle and gives no token."""
    out = tmp_path_factory.mktemp("broken") / "libbroken.so"
    words: list[str | Path] = ["g++", "-std=c++17", "-shared", "-fPIC", f'-DLIBRARY="{litertlm}"', "-o", out, BROKEN]
    run(*words, "-Wl,--no-as-needed", litertlm)
    return out


@pytest.fixture(scope="module")
def make(jvm_report: str, android: Path, shims: Path) -> Make:
    """Makes a host of LiteRT-LM's library and of an environment."""
    return lambda library, environment: Host(android, shims, library, environment)


def said_on_the_accelerator(host: Host, bundle: Path, session: Path, prompt: str) -> tuple[str | None, str]:
    """Why the CPU was offered, if it was, and the answer; an offer is taken."""
    report = host.chat(bundle, "litert", session, prompt, device="ACCELERATOR")
    assert "error" not in report
    return report["offer"], report["turns"][-1]["text"].strip()


def test_a_gpu_that_is_missing_offers_the_cpu(make: Make, litertlm: Path, nano_fp32: Path, tmp_path: Path) -> None:
    host = make(litertlm, dict.fromkeys(CHOSEN, str(tmp_path / "none.json")))
    offer, answer = said_on_the_accelerator(host, nano_fp32, tmp_path / "session.json", PROMPTS[0])
    assert offer is not None and "LiteRT-LM does not load" in offer
    assert answer == python_answers(nano_fp32, "litert")[0]


def test_a_gpu_that_loads_and_gives_no_token_offers_the_cpu(
    make: Make, broken: Path, nano_fp32: Path, tmp_path: Path
) -> None:
    """The first token is drawn before the chat opens: what fails there is no failed answer in a chat."""
    offer, answer = said_on_the_accelerator(make(broken, {}), nano_fp32, tmp_path / "session.json", PROMPTS[0])
    assert offer == "INTERNAL: Can not find OpenCL library on this device"
    assert answer == python_answers(nano_fp32, "litert")[0]


def test_a_gpu_answers(make: Make, litertlm: Path, nano_fp32: Path, tmp_path: Path) -> None:
    driver = find_driver()
    if driver is None or driver.loader is None:
        pytest.skip("no Vulkan driver: make gpu-kit")
    # The delegate opens the loader by its name alone.
    found = {"LD_LIBRARY_PATH": str(Path(driver.loader).parent)} if "/" in driver.loader else {}
    host = make(litertlm, {**driver.settings, **found})
    offer, answer = said_on_the_accelerator(host, nano_fp32, tmp_path / "session.json", "Reverse: stone river house")
    assert (offer, answer) == (None, "Reversed: house river stone")

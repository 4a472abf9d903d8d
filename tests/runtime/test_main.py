"""``python -m g3n_runtime``, which needs no compiler."""

from __future__ import annotations

import contextlib
import errno
import getpass
import io
import os
import subprocess
import sys
import tomllib
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest

from g3n_runtime.__main__ import main
from g3n_runtime.chat import Attachments, Sampler
from g3n_runtime.conversation import Answer, Conversation, Ended, Prompt, Turn
from g3n_runtime.engines import ENGINES
from g3n_runtime.errors import BundleError, ContextFull, EngineError
from g3n_runtime.quiet import VERBOSE
from tests.fuzz.readers_bundle import bundle

ROOT = Path(__file__).parents[2]


class Echo:
    """Says what it is asked, and with how much media; a character is a token, and 40 of them are the context."""

    def __init__(self) -> None:
        self.conversation: Conversation[str] = Conversation()
        self.closed = 0
        self.ended = Ended.END_OF_TURN

    def send(self, text: str, sampler: Sampler, most: int, attachments: Attachments) -> Answer:
        def count(turns: Sequence[Turn[str]], last: Prompt[str]) -> int:
            return sum(len(turn.prompt.text) for turn in turns) + len(last.text)

        def pieces() -> Generator[str, None, Ended]:
            yield f"{text} {sampler.temperature} {most} "
            yield str(len(attachments.images))
            return self.ended

        prompt: Prompt[str] = Prompt(text)
        self.conversation.require_room(prompt, 40, count)
        return self.conversation.answered(prompt, Answer(pieces()))

    def reset(self) -> None:
        self.conversation.reset()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Echo:
    engine = Echo()
    monkeypatch.setitem(ENGINES, "executorch", lambda bundle, threads, placement, context, adapter: engine)  # type: ignore[arg-type, return-value]
    bundle(tmp_path)
    return engine


def test_an_option_may_stand_between_bundle_and_prompt(
    echo: Echo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), "--runtime", "executorch", "--temperature", "0", "--max-tokens", "7", "Hi"]) == 0
    assert capsys.readouterr().out == "Hi 0.0 7 0\n" and echo.closed == 1


def test_without_a_prompt_each_line_is_a_turn(
    echo: Echo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\ntwo\n"))
    assert main([str(tmp_path), "--runtime", "executorch", "--temperature", "1", "--image", "a.png"]) == 0
    assert capsys.readouterr().out == "one 1.0 256 1\ntwo 1.0 256 0\n"


def test_a_full_chat_goes_on(
    echo: Echo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``g3n-run``'s: what does not fit is told and no turn is lost; room can be made, and it is asked again."""
    one, two, three, long = "a" * 15, "b" * 15, "c" * 20, "d" * 40
    lines = [
        one,
        two,
        "a\0b",
        three,
        "/drop",
        "/retry",
        long,
        "/drop x",
        "/reset",
        three,
        "/retry",
        "",
        "/exit",
        "never",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(lines) + "\n"))
    words = [str(tmp_path), "--runtime", "executorch", "--temperature", "0", "--image", "a.png"]
    assert main(words) == 0 and echo.closed == 1
    said = capsys.readouterr()
    assert said.out.splitlines() == [f"{one} 0.0 256 1", f"{two} 0.0 256 0", *[f"{three} 0.0 256 0"] * 2]
    assert [turn.prompt.text for turn in echo.conversation.turns] == [three]
    nul, *told = said.err.splitlines()
    assert "a NUL character" in nul
    assert "has 50 tokens with this prompt" in told[0] and told[1].startswith("(what was said is kept; /drop forgets")
    assert told[2].startswith("(turns forgotten: 1, kept: 1; /retry asks again")
    assert "this prompt alone has 40" in told[3] and told[4] == "(what was said is kept)"
    assert told[5:] == ["/drop takes the number of turns to forget, 1 or more", "(nothing was refused)"]


def test_a_prompt_that_does_not_fit_and_an_answer_that_is_cut(
    echo: Echo, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tmp_path), "--runtime", "executorch", "--max-tokens", "7"]
    assert main([*words, "a" * 40]) == ContextFull.exit_code
    for ended, note in ((Ended.CONTEXT_FULL, "the context is full"), (Ended.TOKEN_LIMIT, "7 tokens, --max-tokens")):
        echo.ended = ended
        assert main([*words, "Hi"]) == 0
        assert capsys.readouterr().err.splitlines()[-1] == f"(the answer was cut: {note})"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("--video-fps", value) for value in ("0", "61", "nan", "x")],
        *[("--max-tokens", value) for value in ("0", "-1", "1e3", "9" * 30, "9" * 5000)],
        *[("--temperature", value) for value in ("-1", "nan", "inf", "hot")],
        ("PROMPT", "a\udcff"),
    ],
)
def test_a_value_that_is_none_is_refused(
    option: str, value: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path), *([value] if option == "PROMPT" else ["Hi", f"{option}={value}"])])
    assert end.value.code == 2 and f"argument {option}: " in capsys.readouterr().err


def test_an_error_is_one_line_and_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "Hi"]) == BundleError.exit_code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "it has no manifest.json" in line


def test_the_runtime_opens_a_bundle_without_the_compiler_and_the_engines(tmp_path: Path) -> None:
    bundle(tmp_path)
    absent = ("g3n_compiler", "torch", "executorch", "litert_lm", "ai_edge_litert", "click", "rich")
    block = f"import sys; sys.modules.update(dict.fromkeys({absent})); "
    code = block + "from g3n_runtime.__main__ import main; sys.exit(main())"
    said = subprocess.run([sys.executable, "-c", code, tmp_path, "Hi"], capture_output=True, text=True, check=False)
    assert said.returncode == 60 and "pip install './runtime_shims[litert]'" in said.stderr


NOISY = """
import os, sys
from g3n_runtime.__main__ import main
from g3n_runtime.engines import ENGINES
from g3n_runtime.errors import EngineError
from tests.runtime.test_main import Echo

class Noisy(Echo):
    def send(self, text, *rest):
        os.write(2, b"noise from C++\\n")
        print("noise from Python", file=sys.stderr)
        if text == "fail":
            raise EngineError("it failed")
        if text == "crash":
            raise ZeroDivisionError("a fault of ours")
        return super().send(text, *rest)

    def __del__(self, write=os.write):
        write(2, b"noise at the end\\n")

engine = Noisy()
ENGINES["executorch"] = lambda bundle, threads, placement, context, adapter: engine
sys.exit(main())
"""


def noisy(folder: Path, text: str, **environment: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    bundle(folder)
    command = [sys.executable, "-c", NOISY, str(folder), "--runtime", "executorch", "--temperature", "0", text]
    env = {name: value for name, value in os.environ.items() if name != VERBOSE} | environment
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=ROOT)


def test_an_engine_is_not_heard_and_an_error_is(tmp_path: Path) -> None:
    said = noisy(tmp_path / "a", "Hi")
    assert (said.returncode, said.stdout, said.stderr) == (0, "Hi 0.0 256 0\n", "")
    said = noisy(tmp_path / "b", "fail")
    assert (said.returncode, said.stderr) == (EngineError.exit_code, "error: it failed\n")
    assert "a fault of ours" in noisy(tmp_path / "c", "crash").stderr


REPEATING = """
import sys
from g3n_runtime.__main__ import main
from g3n_runtime.conversation import Answer, Ended
from g3n_runtime.engines import ENGINES

class Repeating:
    def send(self, text, *rest):
        def pieces():
            yield text
            return Ended.END_OF_TURN
        return Answer(pieces())

    def close(self):
        pass

ENGINES["executorch"] = lambda bundle, threads, placement, context, adapter: Repeating()
sys.exit(main())
"""


def test_input_that_is_no_text_and_a_reader_that_leaves(tmp_path: Path) -> None:
    bundle(tmp_path)
    command = f'{sys.executable} -c "$CODE" {tmp_path} --runtime executorch'
    env = os.environ | {"CODE": REPEATING, "PYTHONIOENCODING": "ascii"}

    def run(shell: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False, env=env)

    done = run(f"printf 'a\\377b\\nc\\n' | {command}")
    assert (done.stdout, done.stderr) == ("a\\ufffdb\nc\n", "")
    done = run(f"yes | head -c 400000 | {command} | head -c 9; exit ${{PIPESTATUS[2]}}")
    assert (done.stdout, done.returncode, done.stderr) == ("y\ny\ny\ny\ny", 1, "")


def test_libraries_keep_their_files_in_our_cache(tmp_path: Path) -> None:
    """Anyone can take the name of PyTorch's folder in TMPDIR first; it is made when ExecuTorch is imported."""
    bundle(tmp_path)
    for name in ("home", "tmp", "elsewhere"):
        (tmp_path / name).mkdir()
    for name in ("root", getpass.getuser()):
        with contextlib.suppress(FileExistsError):
            (tmp_path / "tmp" / f"torchinductor_{name}").symlink_to(tmp_path / "elsewhere" / name)
    code = REPEATING.replace("Repeating()\nsys.exit", "(__import__('executorch.runtime'), Repeating())[1]\nsys.exit")
    env = {n: v for n, v in os.environ.items() if not n.startswith(("XDG_", "G3N_", "TORCHINDUCTOR", "TRITON"))}
    env |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    command = [sys.executable, "-c", code, str(tmp_path), "--runtime", "executorch", "Hi"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert (done.returncode, done.stdout) == (0, "Hi\n"), done.stderr
    assert (tmp_path / "home" / ".cache" / "g3n" / "torchinductor").is_dir()
    assert not list((tmp_path / "elsewhere").iterdir())


def test_an_error_of_the_system_is_one_line(
    echo: Echo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Answer:
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/x")

    monkeypatch.setattr(echo, "send", full)
    assert main([str(tmp_path), "--runtime", "executorch", "Hi"]) == 1
    assert capsys.readouterr().err == "error: /tmp/x cannot be read or written (No space left on device)\n"


def test_an_engine_that_ends_the_process_is_an_error(tmp_path: Path) -> None:
    bundle(tmp_path)
    code = """
import os, runpy, signal, sys
from g3n_runtime.engines import ENGINES

ENGINES["executorch"] = lambda *_: os.kill(os.getpid(), signal.SIGSEGV)
runpy.run_module("g3n_runtime", run_name="__main__", alter_sys=True)
"""
    command = [sys.executable, "-c", code, str(tmp_path), "--runtime", "executorch", "Hi"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == EngineError.exit_code and done.stderr.startswith("error: the engine ended by SIGSEGV")
    assert done.stderr.count("\n") == 1


def test_an_engine_is_heard_when_that_is_asked_for(tmp_path: Path) -> None:
    said = noisy(tmp_path, "Hi", G3N_VERBOSE="1")
    assert said.stderr.splitlines() == ["noise from C++", "noise from Python", "noise at the end"]


def test_both_distributions_have_one_version() -> None:
    compiler, runtime = (
        tomllib.loads((ROOT / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for folder in ("", "runtime_shims")
    )
    assert compiler["version"] == runtime["version"]
    assert f"g3n-runtime[litert,executorch]=={runtime['version']}" in compiler["dependencies"]
    assert compiler["requires-python"] == runtime["requires-python"]

"""``g3n-run``'s chat and single prompts over an engine of a few lines, whose context is 20 words."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from g3n_compiler.cli import run as verb
from g3n_runtime.chat import NOTHING, Attachments, Sampler
from g3n_runtime.conversation import Answer, Conversation, Ended, Prompt, Turn, limit_of
from g3n_runtime.errors import ContextFull, WrongAnswer
from tests.runtime.clips import grey, write_clip

CONTEXT = 20
LONG = " ".join(["word"] * 12)


class Echo:
    """Says the number of turns before, then ``so`` until its limit; ends its turn after ``end`` words."""

    def __init__(self, end: int = 2) -> None:
        self.conversation: Conversation[str] = Conversation()
        self.end, self.attached = end, [NOTHING]
        self.interrupt = False

    def send(self, text: str, sampler: Sampler, max_new_tokens: int, attachments: Attachments = NOTHING) -> Answer:
        prompt: Prompt[str] = Prompt(text)

        def count(turns: Sequence[Turn[str]], last: Prompt[str]) -> int:
            said = [self.conversation.system or "", *(t.prompt.text + " " + t.answer for t in turns), last.text]
            return len(" ".join(said).split())

        room = self.conversation.require_room(prompt, CONTEXT, count)
        self.attached.append(attachments)
        return self.conversation.answered(prompt, Answer(self._words(*limit_of(max_new_tokens, room))))

    def _words(self, most: int, limit: Ended) -> Generator[str, None, Ended]:
        yield str(len(self.conversation.turns))
        if self.interrupt:
            raise KeyboardInterrupt
        for _ in range(min(most, self.end) - 1):
            yield " so"
        return Ended.END_OF_TURN if self.end < most else limit

    def reset(self) -> None:
        self.conversation.reset()

    def close(self) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Echo:
    engine = Echo()
    sampler = {"temperature": 0.0, "top_k": 1, "top_p": 1.0}
    bundle: Any = SimpleNamespace(runtimes=("litert",), manifest={"sampler": sampler}, directory=Path("b"))
    monkeypatch.setattr(verb, "open_bundle", lambda *_, **__: bundle)
    monkeypatch.setattr(verb, "_open", lambda *_: engine)
    return engine


def run(*words: str, lines: Sequence[str] | None = None) -> Result:
    stdin = None if lines is None else "\n".join(lines) + "\n"
    return CliRunner().invoke(verb.main, ["bundle", *words], input=stdin)


def test_a_prompt_that_does_not_fit_ends_with_its_own_code(engine: Echo) -> None:
    done = run(f"{LONG} {LONG}")
    assert done.exit_code == ContextFull.exit_code == 62 and not done.stdout
    assert "the prompt has 24 tokens, at most 19 fit" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("end", "most", "note"),
    [
        (2, 9, ""),
        (9, 3, "(the answer was cut: 3 tokens, --max-tokens)\n"),
        (9, 1, "(the answer was cut: 1 token, --max-tokens)\n"),
        (99, 50, "(the answer was cut: the context is full)\n"),
    ],
)
def test_a_cut_answer_is_told_on_stderr_alone(end: int, most: int, note: str, engine: Echo) -> None:
    engine.end = end
    done = run("--max-tokens", str(most), "Hi you")
    words = min(end, most, CONTEXT - 2)
    assert (done.exit_code, done.stdout, done.stderr) == (0, "0" + " so" * (words - 1) + "\n", note)


def test_a_full_chat_goes_on(engine: Echo) -> None:
    """Nothing waits for an answer that a file cannot give; what was said before is kept."""
    refused, still = f"{LONG} 1", "still here?"
    done = run(lines=["one two three", "a\0b", "four five six", refused, still, "/drop", "/retry", "/exit"])
    assert done.exit_code == 0 and not isinstance(done.exception, Exception)
    assert done.stdout.splitlines() == ["0 so", "1 so", "2 so"], done.output
    assert "has 23 tokens with this prompt, at most 19 fit" in done.stderr
    assert "(turns forgotten: 1, kept: 2)" in done.stderr, "only a prompt that was refused last is asked again"
    assert "(nothing was refused)" in done.stderr and "(a NUL character in a prompt" in done.stderr


@pytest.mark.parametrize(
    ("command", "note", "answer"),
    [
        ("/drop", "(turns forgotten: 2, kept: 0; /retry asks again", "0 so"),
        ("/drop 1", "(turns forgotten: 1, kept: 1; /retry asks again", "1"),  # room for a word
        ("/drop 99", "(turns forgotten: 2, kept: 0; /retry asks again", "0 so"),
        ("/reset", "", "0 so"),
        ("/drop 0", "/drop takes the number of turns", None),
        ("/drop 9999999999999999999999", "/drop takes the number of turns", None),
        ("/drop -1", "/drop takes the number of turns", None),
        ("/drop two", "/drop takes the number of turns", None),
    ],
)
def test_room_is_made_and_the_prompt_asked_again(command: str, note: str, answer: str | None, engine: Echo) -> None:
    done = run(lines=["one two three", "four five six", f"{LONG} 1 2", command, "/retry"])
    assert done.exit_code == 0 and note in done.stderr, done.output
    assert "/drop forgets the oldest 2 turns, /reset all of them" in done.stderr
    assert done.stdout.splitlines() == ["0 so", "1 so", *([answer] if answer else [])]


def test_a_prompt_that_is_too_long_by_itself_is_no_reason_to_drop(engine: Echo) -> None:
    done = run(lines=["one", f"{LONG} {LONG}", "two"])
    assert done.stdout.splitlines() == ["0 so", "1 so"]
    assert "this prompt alone has 24" in done.stderr and "(what was said is kept)" in done.stderr


def test_pictures_wait_for_the_first_prompt_that_fits(engine: Echo) -> None:
    picture = Attachments((Path("a.png"),))
    run("--image", "a.png", lines=[f"{LONG} {LONG}", "one", "two"])
    assert engine.attached == [NOTHING, picture, NOTHING]


def test_a_video_is_read_for_the_bundle_and_what_was_used_is_said(
    engine: Echo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes with the first prompt that fits, and is read once."""
    manifest = {
        "sampler": {"temperature": 0.0, "top_k": 1, "top_p": 1.0},
        "context": 1024,
        "vision": {"image_sizes": [16], "soft_tokens": 256, "resample": "bilinear"},
        "model": {"modalities": ["text", "vision"]},
    }
    bundle: Any = SimpleNamespace(runtimes=("litert",), manifest=manifest, directory=Path("b"))
    monkeypatch.setattr(verb, "open_bundle", lambda *_, **__: bundle)
    clip = write_clip(tmp_path / "c.mp4", [grey(90)] * 6)
    done = run("--video", str(clip), "--video-fps", "2", lines=[f"{LONG} {LONG}", "one", "two"])
    assert done.exit_code == 0 and done.stdout.splitlines() == ["0 so", "1 so"]
    said = " ".join(done.stderr.split())
    assert "(c.mp4: 3 pictures (2 a second))" in said and "c.mp4 is cut: the first 1.5 s of 6.0 s are used" in said
    first, used, last = engine.attached
    assert first == last == NOTHING and used.video is not None
    assert [frame.seconds for frame in used.video.frames] == [0, 0.5, 1]
    done = run("--video", str(clip), "--system", "x " * 400, "Hi")
    assert done.exit_code == ContextFull.exit_code and "a picture takes 276" in " ".join(done.stderr.split())
    assert run("--video", str(clip), "--video-fps", "0", "Hi").exit_code == 2


def test_the_system_reaches_the_engine(engine: Echo) -> None:
    run("--system", "Be brief.", lines=["one", "/reset", "two"])
    assert engine.conversation.system == "Be brief." and len(engine.conversation.turns) == 1


def test_an_interrupted_answer_ends_and_the_chat_goes_on(engine: Echo) -> None:
    engine.interrupt = True
    done = run(lines=["one", "two"])
    assert done.exit_code == 0 and done.stdout.splitlines() == ["0", "1"]
    assert "(interrupted: what was said is kept; Ctrl-C again leaves)" in done.stderr
    assert [t.answer for t in engine.conversation.turns] == ["0", "1"]
    assert run("one").exit_code == 130


def test_the_expected_answer_is_shown_and_passes(engine: Echo) -> None:
    done = run("hello", "--expect", "0 so")
    assert (done.exit_code, done.stdout) == (0, "0 so\n")
    assert "as expected: 0 so" in done.stderr


@pytest.mark.parametrize("expected", ["0 so so", "0  so", "0 SO"])
def test_another_answer_than_the_expected_one_is_an_error(engine: Echo, expected: str) -> None:
    done = run("hello", "--expect", expected)
    assert done.exit_code == WrongAnswer.exit_code == 63
    assert f"the answer is '0 so', expected {expected!r}" in " ".join(done.stderr.split(" "))


def test_an_expected_answer_needs_a_prompt(engine: Echo) -> None:
    done = run("--expect", "0 so", lines=["/exit"])
    assert done.exit_code == 2 and "--expect needs a PROMPT" in done.stderr

"""How much of a video goes into a turn, and what is said of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from g3n_compiler.nano import checkpoint_dir
from g3n_runtime.chat import Attachments
from g3n_runtime.conversation import Caption, Ended, Prompt, Turn
from g3n_runtime.errors import ContextFull, EngineError, MediaError
from g3n_runtime.litert.media import MediaFrontEnd
from g3n_runtime.media.video import Frame, Video
from g3n_runtime.prompt import ChatTemplate
from g3n_runtime.video_turn import Room, read_for
from tests.runtime.clips import grey, write_clip

VISION = {"image_sizes": [32, 16], "soft_tokens": 256, "resample": "bilinear"}
AUDIO = {"soft_tokens": 188}


def bundle(context: int = 4096, vision: Any = VISION, audio: Any = AUDIO) -> Any:
    towers = [name for name, tower in (("vision", vision), ("audio", audio)) if tower]
    manifest = {"context": context, "vision": vision, "audio": audio, "model": {"modalities": ["text", *towers]}}
    return SimpleNamespace(manifest=manifest, directory=Path("b"))


def room(*given: Any, text: str = "What?", **fields: Any) -> Room:
    return Room.of(bundle(*given, **fields), None, [text], 0, 0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 s of pictures and sound, a picture every two seconds."""
    sound = np.random.default_rng(0).normal(0, 0.1, 40 * 16_000)
    pictures = [grey(10 * i) for i in range(20)]
    return write_clip(tmp_path_factory.mktemp("clip") / "c.mp4", pictures, sound, seconds_each=2, rate=2)


@pytest.fixture(scope="module")
def silent(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("silent") / "s.mp4", [grey(10), grey(90)], rate=2)


@pytest.mark.parametrize("context", [600, 1280, 4096, 32_768])
@pytest.mark.parametrize("rate", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("with_sound", [True, False])
def test_what_is_given_fits_the_context(context: int, rate: float, with_sound: bool) -> None:
    """Counted anew: the engine's tokens of each picture and sound, with the most that a time and line breaks take."""
    here = room(context)
    frames = here.frames(rate, with_sound)
    picture = 256 + 2 + len("\n\n00:00.55\n\n")

    def tokens(count: int) -> int:
        sound = (max(188, round(count / rate * 6.25)) + 2 + 4) if with_sound else 0
        return count * picture + sound + len("What?") + 20

    if frames:
        assert tokens(frames) <= context - context // 8
    assert tokens(frames + 1) * 1.04 + 100 > context - context // 8, "room for more was left"


def test_a_video_that_is_too_long_is_cut_with_a_message(clip: Path) -> None:
    here = room(2048)
    video, notes = read_for(here, clip)
    assert len(video.frames) == here.frames(1.0, True) == 5
    assert video.sound is not None and len(video.sound) == 5 * 16_000
    assert notes[0] == "c.mp4: 5 pictures (1 a second) and 5.0 s of sound"
    assert notes[1].startswith("c.mp4 is cut: the first 5 s of 40.") and "the context of 2048" in notes[1]
    assert len(notes) == 2
    assert video.frames[0].image.shape == (32, 32, 3), "the size that the bundle takes"


def test_the_sound_lasts_as_long_as_the_pictures(clip: Path) -> None:
    video, notes = read_for(room(), clip, 0.2)
    assert [f.seconds for f in video.frames] == [5.0 * i for i in range(8)] and not video.cut_pictures
    assert video.sound is not None and abs(len(video.sound) / 16_000 - 40) < 0.2
    assert not [note for note in notes if "is cut" in note]


def test_nothing_is_said_of_a_video_that_fits(silent: Path) -> None:
    video, notes = read_for(room(), silent)
    assert notes == ["s.mp4: 2 pictures (1 a second)"] and len(video.frames) == 2 and video.sound is None


def test_what_a_bundle_lacks_is_said(clip: Path, silent: Path) -> None:
    video, notes = read_for(room(audio=None), clip)
    assert video.frames and video.sound is None
    assert notes[-1] == "the sound of c.mp4 is not used: the bundle has no audio tower"
    video, notes = read_for(room(vision=None), clip)
    assert not video.frames and video.sound is not None and len(video.sound) > 39 * 16_000
    assert notes == ["c.mp4: 40.0 s of sound", "the pictures of c.mp4 are not used: the bundle has no vision tower"]
    with pytest.raises(MediaError, match="has no sound, and of a video the bundle takes sound only"):
        read_for(room(vision=None), silent)
    with pytest.raises(EngineError, match="takes text only, no video"):
        room(vision=None, audio=None)


def test_pictures_go_before_a_sound_that_does_not_fit(clip: Path) -> None:
    video, notes = read_for(room(500), clip)
    assert len(video.frames) == 1 and video.sound is None
    assert notes[-1] == "the sound of c.mp4 is not used: it does not fit the context"


def test_no_room_for_a_picture_is_told(clip: Path) -> None:
    with pytest.raises(ContextFull, match=r"of the context of 300, \d+ tokens are left for c.mp4, a picture takes 276"):
        read_for(room(300), clip)
    with pytest.raises(ContextFull, match="a sound takes"):
        read_for(room(260, vision=None), clip)


def test_a_sound_alone_is_heard(tmp_path: Path) -> None:
    path = write_clip(tmp_path / "a.mp4", sound=np.ones(16_000) / 2)
    video, notes = read_for(room(), path)
    assert not video.frames and video.sound is not None and notes == ["a.mp4: 1.0 s of sound"]
    with pytest.raises(MediaError, match="has no pictures, and of a video the bundle takes pictures only"):
        read_for(room(audio=None), path)


def test_a_caption_is_a_text_before_its_picture_in_every_turn() -> None:
    """What Gemma's template and processor make of the parts text, image, text, image, audio, text."""
    placeholders = {kind: f"<{kind}_soft_token>" for kind in ("image", "audio")}
    jinja = (checkpoint_dir() / "chat_template.jinja").read_text(encoding="utf-8")
    template = ChatTemplate(jinja, {"bos_token": "<bos>"}, "text", "parts", placeholders)
    media = (Caption("00:00"), "image", Caption("00:01"), "image", "audio")
    asked = Prompt("What?", media)
    parts = template.prompt(None, [Turn(asked, "A cat.", Ended.END_OF_TURN)], asked)
    turn = "\n\n|image|\n\n00:01\n\n|image|\n\n\n\n|audio|\n\nWhat?<end_of_turn>\n<start_of_turn>model\n"
    begin = "<start_of_turn>user\n00:00"
    assert "|".join(parts) == f"{begin}{turn}A cat.<end_of_turn>\n{begin}{turn}"


def test_frames_stand_in_their_order_with_their_times_and_before_the_sound() -> None:
    frames = tuple(Frame(seconds, grey(level, 8, 8)) for seconds, level in ((0, 10), (61.5, 90)))
    video = Video(frames, np.zeros(16_000, np.float32))
    given = Attachments(video=video)
    assert given.towers == {"vision", "audio"}
    content = MediaFrontEnd(image_side=8, audio=True).content("What?", given)
    assert isinstance(content, list)
    assert [part["type"] for part in content] == ["text", "image", "text", "image", "audio", "text"]
    assert [part["text"] for part in content if part["type"] == "text"] == ["00:00", "01:01.5", "What?"]
    with pytest.raises(EngineError, match="no audio tower"):
        MediaFrontEnd(image_side=8).content("What?", given)
    with pytest.raises(EngineError, match="no vision tower"):
        MediaFrontEnd(audio=True).content("What?", given)
    with pytest.raises(EngineError, match="squares of 16"):
        MediaFrontEnd(image_side=16).content("What?", replace(given, video=Video(frames)))
    assert Attachments(video=Video()).towers == frozenset()

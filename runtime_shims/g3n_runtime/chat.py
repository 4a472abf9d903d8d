"""What every chat with a bundle offers, whatever engine answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from g3n_runtime.conversation import Answer, Conversation
from g3n_runtime.errors import EngineError

if TYPE_CHECKING:
    from g3n_runtime.media.video import Video


@dataclass(frozen=True)
class Sampler:
    """How tokens are drawn; ``temperature`` 0 is greedy."""

    temperature: float = 1.0
    top_k: int = 64
    top_p: float = 0.95
    seed: int = 0


Device = Literal["cpu", "gpu"]
DEVICES: tuple[Device, ...] = get_args(Device)


@dataclass(frozen=True)
class Placement:
    """What runs the text decoder, and what runs the vision encoder; everything else runs on the CPU."""

    text: Device = "cpu"
    vision: Device = "cpu"

    @property
    def needs_gpu(self) -> bool:
        return "gpu" in (self.text, self.vision)


ON_CPU = Placement()
VIDEO_RATE = 1.0
"""Pictures of a video a second, if nobody chooses."""
VIDEO_RATES = (0.01, 60.0)
"""The least and the most of them."""
GREEDY = Sampler(temperature=0.0, top_k=1, top_p=1.0)


@dataclass(frozen=True)
class Attachments:
    """Images, then sounds, that come before a user's text: files of any size, orientation and sampling rate.

    The frames of a video come after the images, each with its time before it, and its sound after the sounds; it was
    read for the bundle (:func:`g3n_runtime.video_turn.read_for`).
    """

    images: tuple[Path, ...] = ()
    audio: tuple[Path, ...] = ()
    video: Video | None = None

    @property
    def towers(self) -> frozenset[str]:
        """The towers that they need."""
        frames = self.video is not None and self.video.frames
        sound = self.video is not None and self.video.sound is not None
        needed = {"vision": self.images or frames, "audio": self.audio or sound}
        return frozenset(tower for tower, media in needed.items() if media)


NOTHING = Attachments()


def no_tower(name: str) -> EngineError:
    """What is raised for a picture or a sound when the bundle lacks the tower ``name``."""
    return EngineError(f"the bundle has no {name} tower: compile the checkpoint with --modalities text,{name}")


@dataclass(frozen=True)
class Speed:
    """One measured run: seconds to load the model, and from the prompt to the first token; tokens per second."""

    prompt_tokens: int
    decode_tokens: int
    load_seconds: float
    first_token_seconds: float
    prefill_per_second: float
    decode_per_second: float

    @classmethod
    def of_times(
        cls, prompt_tokens: int, decode_tokens: int, load: float, start: float, first: float, end: float
    ) -> Speed:
        """From the clock at the start of the prompt, after the first token and after the last."""
        taken = first - start
        rates = prompt_tokens / taken, (decode_tokens - 1) / (end - first)
        return cls(prompt_tokens, decode_tokens, load, taken, *rates)


class ChatEngine(Protocol):
    """A loaded bundle with a conversation."""

    conversation: Conversation[Any]
    """What was said; turns may be dropped and the system's text set at any time between two turns."""

    def send(self, text: str, sampler: Sampler, max_new_tokens: int, attachments: Attachments = NOTHING) -> Answer:
        """One user turn; yields the model's text as it comes. Earlier turns stay in context.

        Raises:
            MediaError: a file is no image or sound, or is broken or too large.
            ContextFull: the turn does not fit the context after those before it.
            EngineError: the bundle has no tower for it.
        """

    def measure(self, prompt_tokens: int, decode_tokens: int) -> Speed:
        """Run ``prompt_tokens`` and generate ``decode_tokens``, whatever they are; forgets the conversation."""

    def reset(self) -> None:
        """Forget the conversation, but for the system's text."""

    def close(self) -> None:
        """Release the engine."""

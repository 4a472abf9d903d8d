"""What LiteRT-LM's ``generic_model`` must be told so that images and sounds enter a prompt as in ``transformers``.

The engine splits the rendered prompt at placeholders. The text that ``Gemma3nProcessor`` puts around them comes from
the template here, not from the engine's own prefixes and suffixes: the engine tokenises those separately from the
neighbouring text, which splits "\\n\\n\\n".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from g3n_runtime.media.mel import HOP, RATE


@dataclass(frozen=True)
class ImageMedia:
    """Images: the side in pixels that the engine resizes to, and the text of the tokens around soft tokens."""

    side: int
    placeholder: str
    start: str
    end: str


@dataclass(frozen=True)
class AudioMedia:
    """Sounds: the text of the tokens around soft tokens."""

    placeholder: str
    start: str
    end: str


@dataclass(frozen=True)
class Media:
    """The media that a bundle accepts; ``None`` for a kind that it does not."""

    image: ImageMedia | None = None
    audio: AudioMedia | None = None

    @property
    def placeholders(self) -> tuple[str, ...]:
        return tuple(m.placeholder for m in (self.image, self.audio) if m is not None)

    def describe(self, model: Any) -> None:
        """Fill in ``model``, the ``GenericModel`` message of ``LlmModelType``."""
        model.SetInParent()
        if self.placeholders:
            model.delimiter_regex = "(" + "|".join(re.escape(p) for p in self.placeholders) + ")"
        if self.image is not None:
            model.image_enabled = True
            model.image_token_regex = re.escape(self.image.placeholder)
            model.image_tensor_height = model.image_tensor_width = self.image.side
            model.start_of_image_token.token_str = self.image.start
            model.end_of_image_token.token_str = self.image.end
            # The adapter's last row is already the end of the image.
            model.add_image_end = False
            model.image_prefix = model.image_suffix = ""
        if self.audio is not None:
            model.audio_enabled = True
            model.audio_token_regex = re.escape(self.audio.placeholder)
            model.start_of_audio_token.token_str = self.audio.start
            model.end_of_audio_token.token_str = self.audio.end
            model.add_audio_end = True
            model.audio_prefix = model.audio_suffix = ""
            # The encoder's graph includes the model's own mel front end: the engine passes the sound in hops of 10 ms.
            model.skip_mel_spectrogram_extraction = True
            model.audio_sample_rate_hz, model.audio_num_channels, model.audio_input_scale = RATE, 1, 1.0
            model.audio_frame_length = model.audio_hop_length = HOP

    def template(self, template: str) -> str:
        """``template`` with the blank lines that the processor puts around every placeholder."""
        if not self.placeholders:
            return template
        replaced = "".join(f" | replace({p!r}, {_spaced(p)})" for p in self.placeholders)
        return "{% set prompt %}" + template + "{% endset %}{{ prompt" + replaced + " }}"


def _spaced(placeholder: str) -> str:
    """A Jinja literal of ``placeholder`` between blank lines."""
    return repr(f"\n\n{placeholder}\n\n")

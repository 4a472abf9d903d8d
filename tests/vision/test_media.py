"""What the engine is told about images, and how a turn with files becomes its message."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import jinja2
import numpy as np
import pytest
from litert_lm_builder.runtime.proto import llm_metadata_pb2
from PIL import Image

from g3n_compiler.checkpoint.chat_template import GEMMA
from g3n_compiler.lower.litert.media import ImageMedia, Media
from g3n_compiler.lower.litert.metadata import llm_metadata
from g3n_compiler.nano import checkpoint_dir
from g3n_runtime.chat import NOTHING, Attachments
from g3n_runtime.errors import EngineError
from g3n_runtime.litert.media import MediaFrontEnd
from g3n_runtime.media.image import load_image
from tests.prompts import nano_tokenizer

MEDIA = Media(ImageMedia(768, "<image_soft_token>", "<start_of_image>", "<end_of_image>"))
TURNS = [
    {"role": "user", "content": [{"type": "image"}, {"type": "image"}, {"type": "text", "text": " What? "}]},
    {"role": "assistant", "content": "A dog."},
    {"role": "user", "content": "And?"},
]
SPACED = "\n\n<image_soft_token>\n\n"


def test_metadata_of_a_bundle_with_images() -> None:
    meta = llm_metadata_pb2.LlmMetadata()
    meta.ParseFromString(llm_metadata(64, nano_tokenizer(), GEMMA, MEDIA))
    model = meta.llm_model_type.generic_model
    assert model.image_enabled and not model.audio_enabled
    assert (model.image_tensor_height, model.image_tensor_width) == (768, 768)
    assert re.split(model.delimiter_regex, "a<image_soft_token>b") == ["a", "<image_soft_token>", "b"]
    assert model.start_of_image_token.token_str == "<start_of_image>" and not model.add_image_end
    meta.ParseFromString(llm_metadata(64, nano_tokenizer(), GEMMA))
    assert not meta.llm_model_type.generic_model.image_enabled
    assert "replace(" not in meta.jinja_prompt_template


@pytest.mark.parametrize("own", [True, False], ids=["checkpoint's", "default"])
def test_blank_lines_are_around_every_image(own: bool) -> None:
    """As ``Gemma3nProcessor`` expands a placeholder; text stays what it was."""
    template = (checkpoint_dir() / "chat_template.jinja").read_text(encoding="utf-8") if own else GEMMA
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    plain, spaced = (
        environment.from_string(t).render(messages=TURNS, add_generation_prompt=True, bos_token="<bos>")
        for t in (template, MEDIA.template(template))
    )
    assert plain.count("<image_soft_token>") == 2
    assert spaced == plain.replace("<image_soft_token>", SPACED)
    assert spaced.startswith(f"<bos><start_of_turn>user\n{SPACED}{SPACED}What?<end_of_turn>\n")
    assert Media().template(template) == template


def test_a_turn_becomes_parts(tmp_path: Path) -> None:
    Image.fromarray(np.arange(30 * 20 * 3, dtype=np.uint8).reshape(30, 20, 3)).save(tmp_path / "a.png")
    front = MediaFrontEnd(64)
    assert front.content("Hi", NOTHING) == "Hi"
    content = front.content("What?", Attachments((tmp_path / "a.png",)))
    assert isinstance(content, list)
    assert [p["type"] for p in content] == ["image", "text"] and content[-1]["text"] == "What?"
    sent = np.asarray(Image.open(io.BytesIO(base64.b64decode(content[0]["blob"]))))
    assert np.array_equal(sent, load_image(tmp_path / "a.png", 64))
    assert front.towers_of([{"role": "user", "content": content}]) == {"vision"}
    assert front.towers_of([{"role": "user", "content": "Hi"}]) == frozenset()


def test_what_the_bundle_does_not_take_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no vision tower"):
        MediaFrontEnd().content("What?", Attachments((tmp_path / "a.png",)))

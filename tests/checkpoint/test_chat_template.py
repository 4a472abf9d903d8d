"""Chat templates in every place and form, against what ``transformers`` finds in the same folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from g3n_compiler.checkpoint.chat_template import GEMMA, find_chat_template, load_chat_template
from g3n_compiler.errors import TokenizerError
from g3n_compiler.nano import checkpoint_dir

OWN = (checkpoint_dir() / "chat_template.jinja").read_text(encoding="utf-8")
OTHER = OWN.replace("<start_of_turn>", "[[")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
PROCESSOR = "processor_config.json"


def folder(path: Path, processor: bool) -> Path:
    """A checkpoint's text files without a template."""
    path.mkdir()
    for name in (*TOKENIZER_FILES, *([PROCESSOR] if processor else [])):
        shutil.copyfile(checkpoint_dir() / name, path / name)
    return path


def put(path: Path, name: str, template: Any) -> None:
    """``template`` in a file of its own, or as a field of one that is there."""
    file = path / name
    if file.suffix == ".jinja":
        file.parent.mkdir(exist_ok=True)
        file.write_text(template, encoding="utf-8")
        return
    content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(content | {"chat_template": template}), encoding="utf-8")


PLACES: dict[str, Callable[[Path], None]] = {
    "jinja": lambda p: put(p, "chat_template.jinja", OTHER),
    "tokenizer_config": lambda p: put(p, "tokenizer_config.json", OTHER),
    "named ones": lambda p: put(
        p, "tokenizer_config.json", [{"name": "tool_use", "template": OWN}, {"name": "default", "template": OTHER}]
    ),
    "jinja over tokenizer_config": lambda p: (
        put(p, "chat_template.jinja", OTHER),
        put(p, "tokenizer_config.json", OWN),
    )[0],
    "an additional one": lambda p: (
        put(p, "chat_template.jinja", OTHER),
        put(p, "additional_chat_templates/tool_use.jinja", OWN),
    )[0],
}
FOR_PROCESSORS: dict[str, Callable[[Path], None]] = {
    "the older file": lambda p: put(p, "chat_template.json", OTHER),
    "the older file over jinja": lambda p: (
        put(p, "chat_template.json", OTHER),
        put(p, "chat_template.jinja", OWN),
    )[0],
    "processor_config over all": lambda p: (
        put(p, PROCESSOR, OTHER),
        put(p, "chat_template.jinja", OWN),
        put(p, "chat_template.json", OWN),
    )[0],
}


@pytest.mark.parametrize("name", PLACES)
def test_it_is_found_where_the_tokenizer_finds_it(name: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    path = folder(tmp_path / "it", processor=False)
    PLACES[name](path)
    assert find_chat_template(path).text == AutoTokenizer.from_pretrained(path).get_chat_template() == OTHER


@pytest.mark.parametrize("name", FOR_PROCESSORS)
def test_it_is_found_where_the_processor_finds_it(name: str, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    path = folder(tmp_path / "it", processor=True)
    FOR_PROCESSORS[name](path)
    assert find_chat_template(path).text == AutoProcessor.from_pretrained(path).chat_template == OTHER


def test_those_that_are_not_used_are_named(tmp_path: Path) -> None:
    path, remarks = folder(tmp_path / "it", processor=False), list[str]()
    put(path, "chat_template.jinja", OTHER)
    put(path, "additional_chat_templates/rag.jinja", OWN)
    put(path, "tokenizer_config.json", OWN)
    load_chat_template(path, remark=remarks.append)
    assert "rag" in remarks[0] and "tokenizer_config.json is not used" in remarks[1]


def test_without_one_it_is_gemmas_and_that_is_said(tmp_path: Path) -> None:
    remarks: list[str] = []
    template = load_chat_template(folder(tmp_path / "it", processor=True), ("image",), remarks.append)
    assert template.jinja == GEMMA and "Gemma's turns are used" in remarks[0]
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": " a "}]
    assert template.render(messages) == "<bos><start_of_turn>user\nS\n\na<end_of_turn>\n<start_of_turn>model\n"


LIST_ONLY = "{{ bos_token }}{% for m in messages %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endfor %}"
TEXT_ONLY = "{{ bos_token }}{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}\n{% endfor %}"


@pytest.mark.parametrize(("jinja", "content", "media"), [(OWN, "text", "parts"), (TEXT_ONLY, "text", "text")])
def test_the_form_of_content_is_found(jinja: str, content: str, media: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "it", processor=False)
    put(path, "chat_template.jinja", jinja)
    template = load_chat_template(path, ("image", "audio"))
    assert (template.content, template.media) == (content, media)
    parts = [{"type": "image"}, {"type": "text", "text": " What? "}]
    assert "<image_soft_token>What?" in template.render([{"role": "user", "content": parts}])


def test_a_template_of_parts_gets_parts(tmp_path: Path) -> None:
    path = folder(tmp_path / "it", processor=False)
    put(path, "chat_template.jinja", LIST_ONLY)
    assert load_chat_template(path).render([{"role": "user", "content": "hello"}]) == "<bos>hello"


@pytest.mark.parametrize(
    ("jinja", "match"),
    [
        (TEXT_ONLY.replace("{{ bos_token }}", ""), "does not begin with {{ bos_token }}"),
        ("{{ bos_token }}nothing of it", "does not write what the user says"),
        ("{{ bos_token }}{{ raise_exception('never') }}", "never"),
        ("{% for %}", "not Jinja"),
    ],
)
def test_what_cannot_be_used_is_refused(jinja: str, match: str, tmp_path: Path) -> None:
    path = folder(tmp_path / "it", processor=False)
    put(path, "chat_template.jinja", jinja)
    with pytest.raises(TokenizerError, match=match):
        load_chat_template(path)


def test_a_template_without_a_place_for_pictures_is_refused_with_their_tower(tmp_path: Path) -> None:
    path = folder(tmp_path / "it", processor=False)
    put(path, "chat_template.jinja", LIST_ONLY)
    with pytest.raises(TokenizerError, match=r"no place for image.*--modalities"):
        load_chat_template(path, ("image",))


@pytest.mark.parametrize("template", [5, [{"name": "rag", "template": OWN}], {"default": 3}])
def test_a_field_that_is_no_template(template: Any, tmp_path: Path) -> None:
    path = folder(tmp_path / "it", processor=False)
    put(path, "tokenizer_config.json", template)
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json"):
        load_chat_template(path)

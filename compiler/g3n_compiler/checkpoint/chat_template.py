"""The checkpoint's chat template, found where ``transformers`` finds it, and what is needed to render it.

Source: ``ProcessorMixin.get_processor_dict`` and ``PreTrainedTokenizerBase._from_pretrained`` of ``transformers``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from g3n_compiler.checkpoint.fields import present, read_json
from g3n_compiler.checkpoint.remark import Remark, no_remark
from g3n_compiler.checkpoint.token_texts import token_texts
from g3n_compiler.errors import TokenizerError
from g3n_runtime.prompt import ChatTemplate, Content
from g3n_runtime.reading import read_text
from g3n_runtime.template_check import MAX_TEMPLATE_BYTES, check_template

JINJA = "chat_template.jinja"
ADDITIONAL = "additional_chat_templates"
LEGACY = "chat_template.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
PROCESSOR_CONFIG = "processor_config.json"
PREPROCESSOR_CONFIG = "preprocessor_config.json"
DEFAULT = "default"
SPECIAL_TOKENS = {
    "bos_token": "<bos>",
    "eos_token": "<eos>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
"""What a template sees by these names if the folder names no others, as for ``GemmaTokenizer``."""
PLACEHOLDERS: Mapping[str, str] = {"image": "<image_soft_token>", "audio": "<audio_soft_token>"}
GEMMA = (
    "{{ bos_token }}"
    "{% set system = messages[0]['content'] + '\n\n' if messages[0]['role'] == 'system' else '' %}"
    "{% for message in (messages[1:] if system else messages) %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\n' }}"
    "{{ system if loop.first else '' }}"
    "{% if message['content'] is string %}{{ message['content'] | trim }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] in ('image', 'audio') %}{{ '<' + part['type'] + '_soft_token>' }}"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{% endif %}"
    "{{ '<end_of_turn>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
"""Gemma 3n's turns, for a checkpoint without a template."""
_PROBE = "A sentence of its own."
_FORMS: tuple[Content, Content] = ("text", "parts")


class Found(NamedTuple):
    """A template's text, and the file that it was taken from (``None``: the folder has none)."""

    text: str
    where: str | None


def load_chat_template(directory: Path, media: Sequence[str] = (), remark: Remark = no_remark) -> ChatTemplate:
    """The template of a checkpoint's folder, Gemma's own if it has none.

    Args:
        media: the types of parts that it must have a place for, ``image`` and ``audio``.

    Raises:
        TokenizerError: it is no template that may be rendered, or it cannot write even one turn.
    """
    found = find_chat_template(directory, remark)
    check_template(found.text, TokenizerError)
    if found.where is None:
        remark("the checkpoint has no chat template: Gemma's turns are used")
    template = ChatTemplate(found.text, special_tokens(directory), placeholders=PLACEHOLDERS)
    where = found.where or "Gemma's template"
    template = replace(template, content=_content(template, where))
    template = replace(template, media=_media(template, media, where))
    if not template.bos or not template.render(_one_turn(_PROBE), TokenizerError).startswith(template.bos):
        raise TokenizerError(
            f"the chat template in {found.where} does not begin with {{{{ bos_token }}}}: Gemma 3n needs it, every "
            "engine adds it, and transformers would not; add it to the template"
        )
    return template


def find_chat_template(directory: Path, remark: Remark = no_remark) -> Found:
    """The template that ``apply_chat_template`` takes: the processor's where the folder has one."""
    sources = {name: template for name, template in _sources(directory).items() if template is not None}
    if not sources:
        return Found(GEMMA, None)
    texts = {name: _default(template, name, remark) for name, template in sources.items()}
    first = next(iter(texts))
    if others := sorted(name for name, text in texts.items() if text != texts[first]):
        remark(f"the chat template is {first}'s, as transformers takes it; that of {' and '.join(others)} is not used")
    return Found(texts[first], first)


def special_tokens(directory: Path) -> dict[str, str]:
    """The special tokens that a template sees, by name."""
    path = directory / TOKENIZER_CONFIG
    settings = read_json(path, TokenizerError) if present(path) else {}
    return {**SPECIAL_TOKENS, **token_texts(settings, SPECIAL_TOKENS)}


def _sources(directory: Path) -> dict[str, Any]:
    """Every place that may hold a template, those first that win: a text, or texts by name."""
    jinja: dict[str, str] = {}
    folder = directory / ADDITIONAL
    if present(folder) and folder.is_dir():
        for path in sorted(folder.glob("*.jinja")):
            jinja[path.stem] = read_text(path, MAX_TEMPLATE_BYTES, TokenizerError)
    if present(directory / JINJA):
        jinja[DEFAULT] = read_text(directory / JINJA, MAX_TEMPLATE_BYTES, TokenizerError)
    legacy = _field(directory / LEGACY)
    own = {JINJA: jinja or None}
    if present(directory / PROCESSOR_CONFIG) or present(directory / PREPROCESSOR_CONFIG):
        if legacy is not None and set(jinja) - {DEFAULT}:
            raise TokenizerError(
                f"{directory} has both {LEGACY} and {ADDITIONAL}, which transformers refuses: remove {LEGACY}"
            )
        # The processor takes the older file before the newer one.
        own = {PROCESSOR_CONFIG: _field(directory / PROCESSOR_CONFIG), LEGACY: legacy, **own}
    return {
        **own,
        TOKENIZER_CONFIG: _field(directory / TOKENIZER_CONFIG),
        **({} if LEGACY in own else {LEGACY: legacy}),
    }


def _field(path: Path) -> Any:
    return read_json(path, TokenizerError).get("chat_template") if present(path) else None


def _default(template: Any, where: str, remark: Remark) -> str:
    """The template for a conversation without tools, out of a text or of several named ones."""
    if isinstance(template, str):
        return template
    named = template
    if isinstance(template, list):
        entries = [entry if isinstance(entry, dict) else {} for entry in template]
        named = {entry.get("name"): entry.get("template") for entry in entries}
    if not isinstance(named, Mapping) or not all(isinstance(text, str) for text in named.values()):
        raise TokenizerError(f"{where} has a chat_template that is neither a text nor named texts")
    if DEFAULT not in named:
        raise TokenizerError(
            f"{where} has the chat templates {', '.join(map(str, named))[:200]}, but none called {DEFAULT}, which "
            "transformers would take"
        )
    if others := sorted(str(name) for name in named if name != DEFAULT):
        remark(f"of the chat templates in {where}, {DEFAULT} is used; not {', '.join(others)[:200]}")
    return str(named[DEFAULT])


def _content(template: ChatTemplate, where: str) -> Content:
    """How the template takes a text, found by writing one turn in each form; a text if it takes both."""
    as_text, as_parts = (_attempt(replace(template, content=form), _one_turn(_PROBE)) for form in _FORMS)
    # A list that is written as a text shows its brackets; letters that are taken for parts write nothing.
    if isinstance(as_text, str) and _PROBE in as_text:
        return "text"
    if isinstance(as_parts, str) and _PROBE in as_parts:
        return "parts"
    if isinstance(as_text, TokenizerError):
        raise TokenizerError(f"{where}: {as_text}")
    raise TokenizerError(f"{where}: the chat template does not write what the user says")


def _media(template: ChatTemplate, media: Sequence[str], where: str) -> Content:
    """How the template takes pictures and sounds: as parts if it can."""
    for form in reversed(_FORMS):
        able = replace(template, media=form)
        if all(_places(able, kind) for kind in media):
            return form
    raise TokenizerError(
        f"{where}: the chat template has no place for {' and '.join(media)}: leave their towers out with --modalities"
    )


def _places(template: ChatTemplate, kind: str) -> bool:
    """Whether one turn with a medium has its placeholder once, and the text after it without brackets."""
    content = [{"type": kind}, {"type": "text", "text": _PROBE}]
    text = _attempt(template, _one_turn(content))
    return isinstance(text, str) and text.count(template.placeholders[kind]) == 1 and f"'{_PROBE}'" not in text


def _attempt(template: ChatTemplate, messages: list[dict[str, Any]]) -> str | TokenizerError:
    try:
        return template.render(messages, TokenizerError)
    except TokenizerError as error:
        return error


def _one_turn(content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]

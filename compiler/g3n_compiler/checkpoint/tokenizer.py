"""The checkpoint's tokenizer, template and sampler defaults, in the forms that the engines load."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from g3n_compiler.checkpoint.chat_template import load_chat_template
from g3n_compiler.checkpoint.conversations import conversations
from g3n_compiler.checkpoint.fields import present
from g3n_compiler.checkpoint.generation import Sampler, load_sampler
from g3n_compiler.checkpoint.remark import Remark, no_remark
from g3n_compiler.checkpoint.sentencepiece import (
    CONTROL_SYMBOLS,
    choose_sentencepiece,
    pad_to_vocabulary,
    read_in_texts,
)
from g3n_compiler.checkpoint.space_pieces import with_spaces
from g3n_compiler.checkpoint.tokenizer_json import load_fast_tokenizer, read_tokenizer_json
from g3n_compiler.checkpoint.turns import NoTurns, Turns, derive_turns
from g3n_compiler.errors import TokenizerError
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_runtime.prompt import ChatTemplate, Message

TOKENIZER_JSON = "tokenizer.json"
MEDIA = {"vision": "image", "audio": "audio"}
"""The type of a message's part for each tower, as chat templates call it."""


@dataclass(frozen=True)
class TextTokenizer:
    """Everything about text that goes into a bundle."""

    json_path: Path
    sentencepiece: bytes
    """For LiteRT-LM, with a piece for each row of the vocabulary, see :mod:`.space_pieces`."""
    sentencepiece_origin: str
    template: ChatTemplate
    turns: Turns | None
    """The template as texts; ``None`` where it is more than these."""
    no_turns: str | None
    """In what it is more, then."""
    sampler: Sampler
    bos_id: int
    stop_ids: tuple[int, ...]
    stop_texts: tuple[str, ...]
    """The tokens that end an answer, as texts."""
    turn_end: int | None
    """The token that ends a turn in the template; ``None`` if it ends otherwise."""
    added: Mapping[int, str]
    """The texts of the added tokens by their ids: those of turns and media, where a checkpoint has them there."""

    memory: TokenizerMemory = field(default_factory=lambda: TokenizerMemory(), compare=False, repr=False)

    def encode(self, text: str) -> list[int]:
        """As :meth:`LoadedTokenizer.encode`."""
        return self.loaded().encode(text)

    def token(self, id: int) -> str:
        """The text of one token."""
        text = self.added.get(id) or self.loaded().fast.id_to_token(id)
        if text is None:
            raise TokenizerError(f"{self.json_path.name} has no token {id}, which the model's config.json names")
        return str(text)

    def chat(self, prompt: str) -> list[int]:
        """As :meth:`LoadedTokenizer.chat`."""
        return self.loaded().chat(prompt)

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """As :meth:`LoadedTokenizer.ids`."""
        return self.loaded().ids(messages)

    def require_turns(self) -> Turns:
        """:attr:`turns`, which whatever has no Jinja needs.

        Raises:
            TokenizerError: the template is more than such texts.
        """
        if self.turns is None:
            raise TokenizerError(
                f"the app renders no Jinja, and the chat template cannot be written without it: {self.no_turns}. "
                "Compile with --runtime litert, whose engine renders the template, or make the template simpler"
            )
        return self.turns

    def decode(self, ids: list[int]) -> str:
        return self.loaded().decode(ids)

    def loaded(self) -> LoadedTokenizer:
        """The tokenizer in memory: a published vocabulary takes 2 s to load, and 0.1 GB until :meth:`forget`."""
        if self.memory.loaded is None:
            fast = load_fast_tokenizer(self.json_path, checked=True)
            self.memory.loaded = LoadedTokenizer(fast, self.bos_id, self.template)
        return self.memory.loaded

    def forget(self) -> None:
        """Take the tokenizer out of memory; it is loaded again when it is needed."""
        self.memory.loaded = None


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer that is in memory."""

    fast: Tokenizer
    bos_id: int
    template: ChatTemplate

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without a leading bos."""
        return list(self.fast.encode(text, add_special_tokens=False).ids)

    def chat(self, prompt: str) -> list[int]:
        """Ids of one user turn and the beginning of the model's turn, with bos."""
        return self.ids([{"role": "user", "content": prompt}])

    def ids(self, messages: Sequence[Message]) -> list[int]:
        """Ids of a conversation without media and the beginning of the model's turn, with bos."""
        text = self.template.render(messages, TokenizerError).removeprefix(self.template.bos)
        return [self.bos_id, *self.encode(text)]

    def decode(self, ids: list[int]) -> str:
        return str(self.fast.decode(ids, skip_special_tokens=False))


@dataclass
class TokenizerMemory:
    """What :class:`TextTokenizer` holds in memory."""

    loaded: LoadedTokenizer | None = None


def read_tokenizer(directory: Path) -> dict[str, Any] | None:
    """The content of a folder's ``tokenizer.json``; ``None`` if it has none."""
    path = directory / TOKENIZER_JSON
    return read_tokenizer_json(path) if present(path) else None


def load_tokenizer(
    directory: Path,
    config: TextConfig,
    modalities: Collection[str] = (),
    remark: Remark = no_remark,
    spec: Mapping[str, Any] | None = None,
) -> TextTokenizer:
    """Read ``tokenizer.json`` (required), the chat template and the sampler.

    ``tokenizer.model`` is made from ``tokenizer.json`` if it is missing or stale.

    Args:
        modalities: those that are compiled.
        spec: what :func:`read_tokenizer_json` gives for the folder, if it has been called: it takes seconds.

    Raises:
        TokenizerError: there is no tokenizer, it does not parse, its ids do not fit the model, or the chat template
            cannot be used.
    """
    path = directory / TOKENIZER_JSON
    if not present(path):
        raise TokenizerError(
            f"{TOKENIZER_JSON} is missing from {directory}: copy it from the model the checkpoint came from"
        )
    spec = read_tokenizer_json(path) if spec is None else spec
    tokenizer = load_fast_tokenizer(path, checked=True)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > config.vocab_size:
        raise TokenizerError(
            f"{path} has {size} tokens, but the vocabulary has {config.vocab_size}: it is not the model's tokenizer"
        )
    _check_added(path, spec, remark)
    media = [kind for tower, kind in MEDIA.items() if tower in modalities]
    template = load_chat_template(directory, media, remark)
    bos = tokenizer.token_to_id(template.bos)
    if bos != config.bos_id:
        raise TokenizerError(
            f"the chat template begins with {template.bos!r}, which is token {bos} of {path.name}, but config.json "
            f"says that bos is {config.bos_id}: make them agree"
        )
    turns: Turns | None = None
    why: str | None = None
    try:
        turns = derive_turns(template, media)
    except NoTurns as reason:
        why = str(reason)
        remark(f"the chat template cannot be written without Jinja, so the sample app cannot use it: {why}")
    stop = list(config.eos_ids)
    end = None if turns is None else _first_added(spec, turns.next)
    if turns is not None and end is None:
        remark("the chat template ends a turn with no token of its own: answers end at eos_token_id only")
    if end is not None and end not in stop:
        stop.append(end)
        remark(f"token {end} ends a turn in the chat template, but is not an eos_token_id: answers end there too")
    sentencepiece, origin = choose_sentencepiece(directory, spec, remark)
    if written := _control_symbols(template, media):
        sentencepiece = read_in_texts(sentencepiece, written)
        remark(f"the chat template writes {' and '.join(written)}, so LiteRT-LM reads it in texts too, as transformers")
    return TextTokenizer(
        path,
        with_spaces(pad_to_vocabulary(sentencepiece, config.vocab_size)),
        origin,
        template,
        turns,
        why,
        load_sampler(directory, config.vocab_size, remark),
        config.bos_id,
        tuple(stop),
        tuple(text for text in map(tokenizer.id_to_token, stop) if text is not None),
        end,
        {int(token["id"]): token["content"] for token in spec.get("added_tokens") or []},
        TokenizerMemory(LoadedTokenizer(tokenizer, config.bos_id, template)),
    )


def _check_added(path: Path, spec: Mapping[str, Any], remark: Remark) -> None:
    """Refuse added tokens that no engine finds as the ``tokenizers`` library does."""
    for token in spec.get("added_tokens") or []:
        flags = [name for name in ("single_word", "lstrip", "rstrip") if token.get(name)]
        if flags and not token.get("special"):
            raise TokenizerError(
                f"{path} has the added token {token['content'][:40]!r} with {flags[0]}, which no engine has: it would "
                f"find it in other places. Save it again with {flags[0]}=False, if the model was trained so"
            )
        if flags:
            remark(f"engines read {token['content'][:40]!r} in a text without its {flags[0]}, unlike transformers")


def _control_symbols(template: ChatTemplate, media: Sequence[str]) -> list[str]:
    """The control symbols that the template itself writes, the bos at its beginning apart."""
    written = set[str]()
    for _, messages in conversations(media, template.jinja):
        try:
            text = template.render(messages, TokenizerError).removeprefix(template.bos)
        except TokenizerError:
            continue
        written |= {symbol for symbol in CONTROL_SYMBOLS if symbol in text}
    return sorted(written)


def _first_added(spec: Mapping[str, Any], text: str) -> int | None:
    """The id of the added token that ``text`` begins with, if it begins with one."""
    added = {token["content"]: int(token["id"]) for token in spec.get("added_tokens") or []}
    found = [content for content in added if content and text.startswith(content)]
    return added[max(found, key=len)] if found else None

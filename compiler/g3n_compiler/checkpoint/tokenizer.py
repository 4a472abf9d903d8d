"""The checkpoint's tokenizer, template and sampler defaults, in the forms that the engines load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from g3n_compiler.checkpoint.fields import Section, present, read_json
from g3n_compiler.checkpoint.sentencepiece import pad_to_vocabulary, read_sentencepiece, to_sentencepiece
from g3n_compiler.checkpoint.tokenizer_json import load_fast_tokenizer
from g3n_compiler.errors import TokenizerError, WrongModel
from g3n_compiler.models.gemma3n.text_config import MAX_ID, TextConfig
from g3n_runtime.reading import read_text
from g3n_runtime.template import MAX_TEMPLATE_BYTES, check_template, render

TURN_END = "<end_of_turn>"
PROMPT = "<start_of_turn>user\n{prompt}<end_of_turn>\n<start_of_turn>model\n"


@dataclass(frozen=True)
class Sampler:
    """Defaults from ``generation_config.json``; Gemma 3n's own for what is missing there."""

    temperature: float = 1.0
    top_k: int = 64
    top_p: float = 0.95


@dataclass(frozen=True)
class TextTokenizer:
    """Everything about text that goes into a bundle."""

    json_path: Path
    sentencepiece: bytes
    sentencepiece_origin: str
    chat_template: str | None
    sampler: Sampler
    bos_id: int
    stop_ids: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without a leading bos."""
        return list(load_fast_tokenizer(self.json_path).encode(text, add_special_tokens=False).ids)

    def token(self, id: int) -> str:
        """The text of one token."""
        text = load_fast_tokenizer(self.json_path).id_to_token(id)
        if text is None:
            raise TokenizerError(f"{self.json_path.name} has no token {id}, which the model's config.json names")
        return str(text)

    def chat(self, prompt: str) -> list[int]:
        """Ids of one user turn and the beginning of the model's turn, with bos."""
        return [self.bos_id, *self.encode(PROMPT.format(prompt=prompt))]

    def decode(self, ids: list[int]) -> str:
        return str(load_fast_tokenizer(self.json_path).decode(ids, skip_special_tokens=False))

    def loaded(self) -> LoadedTokenizer:
        """For many calls: it stays in memory, where each call of the others reads the file."""
        return LoadedTokenizer(load_fast_tokenizer(self.json_path), self.bos_id)


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer that is in memory."""

    fast: Tokenizer
    bos_id: int

    def encode(self, text: str) -> list[int]:
        """As :meth:`TextTokenizer.encode`."""
        return list(self.fast.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: list[int]) -> str:
        return str(self.fast.decode(ids, skip_special_tokens=False))


def load_tokenizer(directory: Path, config: TextConfig) -> TextTokenizer:
    """Read ``tokenizer.json`` (required), ``tokenizer.model`` (converted if missing) and the chat template.

    Raises:
        TokenizerError: there is no tokenizer, it does not parse, or its ids do not fit the model.
    """
    path = directory / "tokenizer.json"
    if not present(path):
        raise TokenizerError(
            f"tokenizer.json is missing from {directory}: copy it from the model the checkpoint came from"
        )
    tokenizer = load_fast_tokenizer(path)
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > config.vocab_size:
        raise TokenizerError(
            f"{path} has {size} tokens, but the vocabulary has {config.vocab_size}: it is not the model's tokenizer"
        )
    turn = {token: tokenizer.token_to_id(token) for token in ("<start_of_turn>", TURN_END)}
    if missing := [token for token, i in turn.items() if i is None]:
        raise TokenizerError(f"{path} has no {missing[0]} token: it is not a Gemma tokenizer")
    own = directory / "tokenizer.model"
    own_is_there = present(own)
    stop = tuple(dict.fromkeys((*config.eos_ids, int(turn[TURN_END] or 0))))
    return TextTokenizer(
        path,
        pad_to_vocabulary(read_sentencepiece(own) if own_is_there else to_sentencepiece(path), config.vocab_size),
        own.name if own_is_there else path.name,
        _chat_template(directory),
        _sampler(directory),
        config.bos_id,
        stop,
    )


def _chat_template(directory: Path) -> str | None:
    jinja = directory / "chat_template.jinja"
    if present(jinja):
        template: object = read_text(jinja, MAX_TEMPLATE_BYTES, TokenizerError)
    else:
        settings = directory / "tokenizer_config.json"
        template = read_json(settings, TokenizerError).get("chat_template") if present(settings) else None
    if not isinstance(template, str):
        return None
    check_template(template, TokenizerError)
    try:
        render(template, [{"role": "user", "content": "Hello"}], TokenizerError)
    except TokenizerError:  # some templates accept only a list of parts
        render(template, [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}], TokenizerError)
    return template


def _sampler(directory: Path) -> Sampler:
    path = directory / "generation_config.json"
    raw = Section(read_json(path) if present(path) else {}, path.name, WrongModel)
    default = Sampler()
    return Sampler(
        raw.number("temperature", default.temperature, 0.0, 1000.0) if "temperature" in raw else default.temperature,
        raw.integer("top_k", default.top_k, 0, MAX_ID, null=True),
        raw.number("top_p", default.top_p, 0.0, 1.0) if "top_p" in raw else default.top_p,
    )

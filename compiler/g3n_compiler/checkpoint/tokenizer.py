"""The checkpoint's tokenizer, template and sampler defaults, in the forms the engines load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from g3n_compiler.checkpoint.config import TextConfig, read_json
from g3n_compiler.checkpoint.sentencepiece import pad_to_vocabulary, to_sentencepiece
from g3n_compiler.errors import TokenizerError

TURN_END = "<end_of_turn>"
PROMPT = "<start_of_turn>user\n{prompt}<end_of_turn>\n<start_of_turn>model\n"


@dataclass(frozen=True)
class Sampler:
    """Defaults from ``generation_config.json``; Gemma 3n's own where it is silent."""

    temperature: float = 1.0
    top_k: int = 64
    top_p: float = 0.95


@dataclass(frozen=True)
class TextTokenizer:
    """Everything about text that travels in a bundle."""

    json_path: Path
    sentencepiece: bytes
    sentencepiece_origin: str
    chat_template: str | None
    sampler: Sampler
    bos_id: int
    stop_ids: tuple[int, ...]

    def encode(self, text: str) -> list[int]:
        """Ids of ``text``, without a leading bos."""
        return list(Tokenizer.from_file(str(self.json_path)).encode(text, add_special_tokens=False).ids)

    def token(self, id: int) -> str:
        """The text of one token."""
        text = Tokenizer.from_file(str(self.json_path)).id_to_token(id)
        if text is None:
            raise TokenizerError(f"{self.json_path.name} has no token {id}, which the model's config.json names")
        return str(text)

    def chat(self, prompt: str) -> list[int]:
        """Ids of one user turn and the opening of the model's, with bos."""
        return [self.bos_id, *self.encode(PROMPT.format(prompt=prompt))]

    def decode(self, ids: list[int]) -> str:
        return str(Tokenizer.from_file(str(self.json_path)).decode(ids, skip_special_tokens=False))


def load_tokenizer(directory: Path, config: TextConfig) -> TextTokenizer:
    """Read ``tokenizer.json`` (needed), ``tokenizer.model`` (else converted) and the chat template.

    Raises:
        TokenizerError: no tokenizer, one that does not parse, or one whose ids do not fit the model.
    """
    path = directory / "tokenizer.json"
    if not path.exists():
        raise TokenizerError(
            f"tokenizer.json is missing from {directory}: copy it from the model the checkpoint came from"
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust binding raises plain Exception
        raise TokenizerError(f"{path} cannot be loaded ({error})") from None
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    if size > config.vocab_size:
        raise TokenizerError(
            f"{path} has {size} tokens, the model's vocabulary is {config.vocab_size}: not its tokenizer"
        )
    turn = {token: tokenizer.token_to_id(token) for token in ("<start_of_turn>", TURN_END)}
    if missing := [token for token, i in turn.items() if i is None]:
        raise TokenizerError(f"{path} has no {missing[0]} token: it is not a Gemma tokenizer")
    own = directory / "tokenizer.model"
    stop = tuple(dict.fromkeys((*config.eos_ids, int(turn[TURN_END] or 0))))
    return TextTokenizer(
        path,
        pad_to_vocabulary(own.read_bytes() if own.exists() else to_sentencepiece(path), config.vocab_size),
        "tokenizer.model" if own.exists() else "tokenizer.json",
        _chat_template(directory),
        _sampler(directory),
        config.bos_id,
        stop,
    )


def _chat_template(directory: Path) -> str | None:
    jinja = directory / "chat_template.jinja"
    if jinja.exists():
        return jinja.read_text(encoding="utf-8")
    settings = directory / "tokenizer_config.json"
    template = read_json(settings).get("chat_template") if settings.exists() else None
    return template if isinstance(template, str) else None


def _sampler(directory: Path) -> Sampler:
    path = directory / "generation_config.json"
    raw: dict[str, Any] = read_json(path) if path.exists() else {}
    default = Sampler()
    return Sampler(
        float(raw.get("temperature", default.temperature)),
        int(raw.get("top_k", default.top_k)),
        float(raw.get("top_p", default.top_p)),
    )

"""What a conversation becomes: tokenizer, special ids, chat template and the defaults of generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.chat_template import GEMMA, find_chat_template
from g3n_compiler.checkpoint.fields import present, read_json
from g3n_compiler.checkpoint.tokenizer import TextTokenizer
from g3n_compiler.checkpoint.tokenizer_json import load_fast_tokenizer
from g3n_compiler.doctor.findings import Findings
from g3n_compiler.errors import G3nError, TokenizerError
from g3n_runtime.prompt import ChatTemplate

TOKENIZER, TEMPLATE, GENERATION = "tokenizer", "chat template", "generation"
SPECIAL = ("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>", "<image_soft_token>", "<audio_soft_token>")
MODEL = "tokenizer.model"
SAID = "Hello"
DEFAULTS = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "eos_token_id", "bos_token_id")


def tell_text(findings: Findings, directory: Path, tokenizer: TextTokenizer | None) -> None:
    """All facts of this page that can be had."""
    try:
        _tell_tokenizer(findings, directory, tokenizer)
    except G3nError as error:
        findings.tell(TOKENIZER, "tokenizer.json", str(error))
    _tell_template(findings, directory, tokenizer)
    _tell_generation(findings, directory)


def _tell_tokenizer(findings: Findings, directory: Path, tokenizer: TextTokenizer | None) -> None:
    path = directory / "tokenizer.json"
    fast = load_fast_tokenizer(path, checked=tokenizer is not None)
    findings.tell(TOKENIZER, "tokens", f"{fast.get_vocab_size(with_added_tokens=True):,}")
    ids = {token: fast.token_to_id(token) for token in SPECIAL}
    told = ", ".join(f"{token} {number}" for token, number in ids.items() if number is not None)
    findings.tell(TOKENIZER, "special ids", told or "none of Gemma's")
    if tokenizer is not None:
        used = tokenizer.sentencepiece_origin
        what = "agrees with tokenizer.json" if used == MODEL else "is made from tokenizer.json"
        findings.tell(TOKENIZER, MODEL, what)
        findings.tell(TOKENIZER, "ends an answer", ", ".join(tokenizer.stop_texts) or "nothing")


def _tell_template(findings: Findings, directory: Path, tokenizer: TextTokenizer | None) -> None:
    try:
        found = find_chat_template(directory)
    except TokenizerError as error:
        findings.tell(TEMPLATE, "found in", str(error))
        return
    findings.tell(TEMPLATE, "found in", found.where or "no file: Gemma's own turns are used")
    if tokenizer is None:
        return
    messages = [{"role": "user", "content": SAID}]
    turn = tokenizer.template.render(messages, TokenizerError)
    gemma = ChatTemplate(GEMMA, tokenizer.template.variables).render(messages, TokenizerError)
    findings.tell(TEMPLATE, "whose", f"writes a turn {'as' if turn == gemma else 'otherwise than'} Gemma's does")
    findings.tell(TEMPLATE, "one turn", turn)
    findings.tell(TEMPLATE, "in the app", "yes" if tokenizer.no_turns is None else f"no: {tokenizer.no_turns}")


def _tell_generation(findings: Findings, directory: Path) -> None:
    found = _json(directory / "generation_config.json")
    told = {name: found[name] for name in DEFAULTS if name in found}
    for name, value in told.items():
        findings.tell(GENERATION, name, str(value)[:200])
    if not told:
        findings.tell(GENERATION, "generation_config.json", "says nothing: Gemma 3n's own defaults are used")


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one: what is wrong with a file is for a check to report."""
    try:
        return read_json(path) if present(path) else {}
    except G3nError:
        return {}

"""What a conversation becomes: tokenizer, special ids, chat template and the defaults of generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from g3n_compiler.checkpoint.fields import present, read_json
from g3n_compiler.checkpoint.sentencepiece import check_equal, read_sentencepiece
from g3n_compiler.checkpoint.tokenizer import PROMPT, TextTokenizer
from g3n_compiler.checkpoint.tokenizer_json import load_fast_tokenizer
from g3n_compiler.doctor.findings import Findings
from g3n_compiler.errors import G3nError, TokenizerError
from g3n_compiler.nano import checkpoint_dir
from g3n_runtime.reading import read_text
from g3n_runtime.template import MAX_TEMPLATE_BYTES, render

TOKENIZER, TEMPLATE, GENERATION = "tokenizer", "chat template", "generation"
SPECIAL = ("<bos>", "<eos>", "<pad>", "<start_of_turn>", "<end_of_turn>", "<image_soft_token>", "<audio_soft_token>")
SAMPLES = (
    "Hello, world!", "  two spaces, and a tab\t.", "Ein Überfluß an Öl", "数字 12345.678", "नमस्ते", "🙂🙃",
    "def f(x):\n    return x ** 2\n", "http://example.org/?a=b&c=d", "word " * 20,
)  # fmt: skip
SAID = "Hello"
DEFAULTS = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "eos_token_id", "bos_token_id")


def tell_text(findings: Findings, directory: Path, tokenizer: TextTokenizer | None) -> None:
    """All facts of this page that can be had."""
    try:
        _tell_tokenizer(findings, directory)
    except G3nError as error:
        findings.tell(TOKENIZER, "tokenizer.json", str(error))
    _tell_template(findings, directory, tokenizer)
    _tell_generation(findings, directory)


def _tell_tokenizer(findings: Findings, directory: Path) -> None:
    path = directory / "tokenizer.json"
    fast = load_fast_tokenizer(path)
    findings.tell(TOKENIZER, "tokens", f"{fast.get_vocab_size(with_added_tokens=True):,}")
    ids = {token: fast.token_to_id(token) for token in SPECIAL}
    told = ", ".join(f"{token} {number}" for token, number in ids.items() if number is not None)
    findings.tell(TOKENIZER, "special ids", told or "none of Gemma's")
    own = directory / "tokenizer.model"
    if not present(own):
        findings.tell(TOKENIZER, "tokenizer.model", "missing: it is made from tokenizer.json")
        return
    try:
        pieces = read_sentencepiece(own)
        _require_same_pieces(fast, pieces)
        check_equal(path, pieces, SAMPLES)
    except (ValueError, TokenizerError) as error:
        findings.tell(TOKENIZER, "tokenizer.model", f"disagrees with tokenizer.json: {error}")
        findings.notes.append("tokenizer.model is not that of tokenizer.json, which is what transformers reads")
    else:
        findings.tell(
            TOKENIZER, "tokenizer.model", f"has the same tokens, and gives the same ids on {len(SAMPLES)} samples"
        )


def _require_same_pieces(fast: Tokenizer, model: bytes) -> None:
    """Raise ``ValueError`` if an id means one token in ``tokenizer.json`` and another one in ``tokenizer.model``."""
    processor = SentencePieceProcessor(model_proto=model)
    names = {number: token for token, number in fast.get_vocab(with_added_tokens=True).items()}
    both = range(min(processor.get_piece_size(), max(names) + 1))
    differ = [i for i in both if i in names and names[i] != processor.id_to_piece(i)]
    if differ:
        first = differ[0]
        raise ValueError(
            f"{len(differ)} ids are other tokens, such as {first}: {names[first]!r}, {processor.id_to_piece(first)!r}"
        )


def _tell_template(findings: Findings, directory: Path, tokenizer: TextTokenizer | None) -> None:
    places = _templates(directory)
    findings.tell(TEMPLATE, "found in", ", ".join(places) or "no file: Gemma's own turns are used")
    if len(places) > 1:
        findings.notes.append(f"there are {len(places)} chat templates: {', '.join(places)}")
    if tokenizer is None:
        return
    used = tokenizer.chat_template
    if used is None:
        findings.tell(TEMPLATE, "one turn", PROMPT.format(prompt=SAID))
        return
    gemma = read_text(checkpoint_dir() / "chat_template.jinja", MAX_TEMPLATE_BYTES, TokenizerError)
    try:
        turn = _one_turn(used)
        usual = _one_turn(gemma)
    except TokenizerError as error:
        findings.tell(TEMPLATE, "one turn", str(error))
        return
    if used.strip() == gemma.strip():
        whose = "Gemma's own"
    else:
        whose = f"another one, which writes a turn {'as' if turn == usual else 'otherwise than'} Gemma's does"
    findings.tell(TEMPLATE, "whose", whose)
    findings.tell(TEMPLATE, "one turn", turn)


def _one_turn(template: str) -> str:
    """A user's ``Hello`` and the beginning of the answer; content as a text, or as a list of parts where it must be."""
    try:
        return render(template, [{"role": "user", "content": SAID}], TokenizerError)
    except TokenizerError:
        parts = [{"type": "text", "text": SAID}]
        return render(template, [{"role": "user", "content": parts}], TokenizerError)


def _templates(directory: Path) -> list[str]:
    """The places with a template, in the order in which transformers looks."""
    places = [name for name in ("chat_template.jinja", "chat_template.json") if present(directory / name)]
    places += sorted(f"additional_chat_templates/{p.name}" for p in directory.glob("additional_chat_templates/*.jinja"))
    for name in ("processor_config.json", "tokenizer_config.json"):
        value = _json(directory / name).get("chat_template")
        if isinstance(value, list):
            names = [str(v.get("name"))[:40] for v in value if isinstance(v, dict)]
            places.append(f"{name} ({len(value)} named ones: {', '.join(names[:8])})")
        elif isinstance(value, str):
            places.append(name)
    return places


def _tell_generation(findings: Findings, directory: Path) -> None:
    found = _json(directory / "generation_config.json")
    told = {name: found[name] for name in DEFAULTS if name in found}
    for name, value in told.items():
        findings.tell(GENERATION, name, str(value)[:200])
    if not told:
        findings.tell(GENERATION, "generation_config.json", "says nothing: Gemma 3n's own defaults are used")


def _json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one: what is wrong with a file is a check's to tell."""
    try:
        return read_json(path) if present(path) else {}
    except G3nError:
        return {}

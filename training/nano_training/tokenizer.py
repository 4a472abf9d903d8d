"""Trains nano's tokenizer: Gemma's kind of BPE (byte fallback, "▁" for a space), with the real ids where they exist.

Layout: 0-4 ``<pad> <eos> <bos> <unk> <mask>``, 5-104 unused, 105/106 ``<start_of_turn>``/``<end_of_turn>``,
107-137 runs of 1-31 newlines, 138-167 runs of 2-31 spaces (all as in Gemma 3n), 168-423 bytes, then pieces in merge
order and single characters, 4094/4095 ``<start_of_image>``/``<start_of_audio>``; after the text vocabulary a vision
block 4096-4223 and an audio block 4224-4351, 128 ids each.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from g3n_compiler.checkpoint.sentencepiece import to_sentencepiece

TEXT_VOCAB_SIZE = 4096
VOCAB_SIZE = 4352
PAD_ID, EOS_ID, BOS_ID, UNK_ID, MASK_ID = range(5)
START_OF_TURN_ID, END_OF_TURN_ID = 105, 106
NEWLINES_ID, SPACES_ID, BYTES_ID, PIECES_ID = 107, 138, 168, 424
BOI_ID, BOA_ID = 4094, 4095
VISION_ID, AUDIO_ID = 4096, 4224

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
_LONGEST_RUN = 31
_MODALITY_BLOCK = 128
# a piece has at most one of these: a word with its leading space, a digit, or a run of other marks
_WORD_PATTERN = rf"{SPACE}?\p{{L}}+|{SPACE}?\p{{N}}|{SPACE}?[^\p{{L}}\p{{N}}{SPACE}\n]+|{SPACE}+|\n+"


def _special_tokens() -> dict[int, str]:
    tokens = dict(enumerate(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")))
    tokens |= {i: f"<unused{i - 5}>" for i in range(5, START_OF_TURN_ID)}
    tokens |= {START_OF_TURN_ID: "<start_of_turn>", END_OF_TURN_ID: "<end_of_turn>"}
    tokens |= {BOI_ID: "<start_of_image>", BOA_ID: "<start_of_audio>"}
    tokens |= {VISION_ID + i: f"<unused_mm{i}>" for i in range(2 * _MODALITY_BLOCK)}
    tokens |= {VISION_ID: "<end_of_image>", VISION_ID + 1: "<image_soft_token>"}
    tokens |= {AUDIO_ID: "<end_of_audio>", AUDIO_ID + 1: "<audio_soft_token>"}
    return tokens


def _run_tokens() -> dict[int, str]:
    newlines = {NEWLINES_ID + n - 1: "\n" * n for n in range(1, _LONGEST_RUN + 1)}
    return newlines | {SPACES_ID + n - 2: SPACE * n for n in range(2, _LONGEST_RUN + 1)}


def _learn_pieces(texts: Iterable[str], room: int) -> tuple[list[str], list[str]]:
    """Merged pieces in merge order, and the single characters that they consist of; together at most ``room``."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Replace(" ", SPACE)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD_PATTERN), "isolated")
    ascii_characters = [chr(c) for c in range(33, 127)] + [SPACE]
    trainer = trainers.BpeTrainer(
        vocab_size=room, initial_alphabet=ascii_characters, limit_alphabet=len(ascii_characters), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    ordered = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    return [t for t in ordered if len(t) > 1], [t for t in ordered if len(t) == 1]


def _all_merges(pieces: list[str], vocab: dict[str, int]) -> list[list[str]]:
    """Every split of every piece into two tokens, by piece rank: what SentencePiece would merge."""
    merges: list[list[str]] = []
    for piece in pieces:
        splits = [(piece[:i], piece[i:]) for i in range(1, len(piece))]
        merges += [[a, b] for a, b in splits if a in vocab and b in vocab]
    return merges


def train(texts: Iterable[str]) -> dict[str, Any]:
    """The content of ``tokenizer.json`` for a tokenizer trained on ``texts``."""
    specials, runs = _special_tokens(), _run_tokens()
    pieces, characters = _learn_pieces(_without_specials(texts), BOI_ID - PIECES_ID)
    vocab = {name: i for i, name in (specials | runs).items()}
    vocab |= {f"<0x{b:02X}>": BYTES_ID + b for b in range(256)}
    vocab |= {name: PIECES_ID + i for i, name in enumerate(pieces + characters)}
    for i in range(PIECES_ID + len(pieces) + len(characters), BOI_ID):
        vocab[f"<unused_piece{i}>"] = i
    added = [_added_token(i, name, special=True) for i, name in specials.items()]
    # normalized: the space runs must be found after spaces have become "▁"
    added += [_added_token(i, name, special=False, normalized=True) for i, name in runs.items()]
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: int(token["id"])),
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": SPACE},
        "pre_tokenizer": None,
        "post_processor": _bos_processor(),
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
            ],
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": "<unk>",
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": True,
            "ignore_merges": False,
            "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
            "merges": _all_merges(pieces, vocab),
        },
    }


def _without_specials(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for name in ("<start_of_turn>", "<end_of_turn>", "<eos>"):
            text = text.replace(name, "\n")
        yield text


def _added_token(index: int, content: str, *, special: bool, normalized: bool = False) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": normalized, "special": special}
    return {"id": index, "content": content, **flags}


def _bos_processor() -> dict[str, Any]:
    bos = {"SpecialToken": {"id": "<bos>", "type_id": 0}}
    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    return {
        "type": "TemplateProcessing",
        "single": [bos, first],
        "pair": [bos, first, {"SpecialToken": {"id": "<bos>", "type_id": 1}}, second],
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [BOS_ID], "tokens": ["<bos>"]}},
    }


def _config() -> dict[str, Any]:
    multimodal = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
        "boa_token": "<start_of_audio>",
        "eoa_token": "<end_of_audio>",
        "audio_token": "<audio_soft_token>",
    }
    return {
        "tokenizer_class": "GemmaTokenizer",
        "processor_class": "Gemma3nProcessor",
        "model_max_length": 4096,
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
        "extra_special_tokens": multimodal,
        **multimodal,
    }


def save(tokenizer: dict[str, Any], chat_template: str, folder: Path) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json``, ``tokenizer.model`` and the chat template to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=0), "utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(_config(), indent=2) + "\n", "utf-8")
    (folder / CHAT_TEMPLATE_FILE).write_text(chat_template, "utf-8")
    (folder / "tokenizer.model").write_bytes(to_sentencepiece(path))

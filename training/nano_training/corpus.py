"""nano's training text: fetched as Debian packages, unpacked without installing, cleaned and split.

Everything is deterministic: the split and every random choice follow from a hash of the document's own key.
"""

import hashlib
import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random

from nano_training import chat, kjv, wordnet
from nano_training.debian import unpacked

PACKAGES = ("bible-kjv-text", "bible-kjv", "wordnet-base")
_SYSTEM = ("Answer in one sentence.", "You are a helpful dictionary.", "Be brief.", "You are a teacher of English.")
_SYSTEM_SHARE = 0.04
_HELDOUT_PER_MILLE = {"wordnet": 6, "kjv": 16}
_SHORT = 25  # in characters; shorter glosses may be part of another one by chance
EOS = "<eos>"


@dataclass(frozen=True)
class Document:
    """``kind`` is "chat-wordnet", "chat-kjv" or "plain-kjv"; ``text`` is in prompt form without ``<bos>``."""

    kind: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """Training and held-out documents; no gloss, example sentence or chapter is the source of both."""

    train: list[Document]
    heldout: list[Document]


def _print_bible(tree: Path) -> str:
    command = [str(tree / "usr/bin/bible"), "-p", str(tree / "usr/lib"), "-l4000", "Gen1:1-Rev22:21"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _is_heldout(source: str, key: str) -> bool:
    return _digest(f"{source}/{key}") % 1000 < _HELDOUT_PER_MILLE[source]


def _chat_document(kind: str, turns: list[chat.Turn], rng: Random) -> Document:
    system = rng.choice(_SYSTEM) if rng.random() < _SYSTEM_SHARE else ""
    return Document(kind, chat.render(turns, system))


def _kjv_documents(chapter: kjv.Chapter) -> Iterator[Document]:
    rng = Random(_digest(chapter.name))
    for passage in kjv.passages(chapter, rng):
        yield Document("plain-kjv", passage + EOS)
    for turns in kjv.continuations(chapter, rng):
        yield _chat_document("chat-kjv", turns, rng)


def _wordnet_documents(synset: wordnet.Synset, synsets: dict[str, wordnet.Synset]) -> Iterator[Document]:
    rng = Random(_digest(synset.key))
    for turns in wordnet.conversations(synset, synsets, rng):
        yield _chat_document("chat-wordnet", turns, rng)


def _shuffled(documents: Iterable[Document]) -> list[Document]:
    return sorted(documents, key=lambda d: _digest(d.text))


def build(cache: Path) -> Corpus:
    """The whole corpus, from ``cache`` (which is filled on first use)."""
    tree = unpacked(PACKAGES, ("usr/share/wordnet/data.noun", "usr/bin/bible"), cache)
    train: list[Document] = []
    heldout: list[Document] = []
    for chapter in kjv.parse(_print_bible(tree)):
        (heldout if _is_heldout("kjv", chapter.name) else train).extend(_kjv_documents(chapter))
    synsets = wordnet.read_synsets(tree / "usr/share/wordnet")
    kept_out = [s for s in synsets.values() if _is_heldout("wordnet", s.gloss)]
    secret = {text.lower() for s in kept_out for text in (s.gloss, *s.examples)}
    learnt: list[str] = []
    for synset in synsets.values():
        texts = [text.lower() for text in (synset.gloss, *synset.examples)]
        if not _is_heldout("wordnet", synset.gloss) and secret.isdisjoint(texts):
            train.extend(_wordnet_documents(synset, synsets))
            learnt += texts
    seen = "\n".join(learnt)
    for synset in kept_out:
        # a gloss can also be the beginning of a longer one
        if len(synset.gloss) < _SHORT or synset.gloss.lower() not in seen:
            heldout.extend(_wordnet_documents(synset, synsets))
    return Corpus(_shuffled(train), _shuffled(heldout))


def write_documents(documents: Iterable[Document], path: Path) -> None:
    """Write one JSON object per line."""
    path.write_text("".join(json.dumps(asdict(d), ensure_ascii=False) + "\n" for d in documents), "utf-8")


def read_documents(path: Path) -> list[Document]:
    """The documents that :func:`write_documents` wrote."""
    return [Document(**json.loads(line)) for line in path.read_text("utf-8").splitlines()]

"""Read the WordNet 3.0 database files (``data.*`` and ``index.*``, format: wndb(5WN)) and write chat documents."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from nano_training.chat import Turn

_PARTS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
_COUNTED = frozenset({5, 6, 8, 18, 20})  # lexicographer files of animals, artifacts, body parts, persons, plants
_PERSON = 18
_MARKER = re.compile(r"\((?:p|a|ip)\)$")  # syntactic marker of an adjective, e.g. "same(p)"
_EXAMPLE = re.compile(r'"([^"]{8,160})"')


@dataclass(frozen=True)
class Synset:
    """One sense: its words, gloss, example sentences, and ids (part of speech + byte offset) of related synsets."""

    key: str
    part: str
    lexfile: int
    words: tuple[str, ...]
    gloss: str
    examples: tuple[str, ...]
    hypernyms: tuple[str, ...] = ()
    antonyms: tuple[str, ...] = ()
    ranks: dict[str, int] = field(default_factory=dict, compare=False)


def _split_gloss(text: str) -> tuple[str, tuple[str, ...]]:
    examples = tuple(dict.fromkeys(m.strip() for m in _EXAMPLE.findall(text)))
    gloss = text.split('"')[0].strip().rstrip(";:,- ").strip()
    return " ".join(gloss.split()), examples


def _parse_data_line(line: str, part: str) -> Synset | None:
    head, _, tail = line.partition("|")
    fields = head.split()
    count = int(fields[3], 16)
    words = tuple(_MARKER.sub("", w).replace("_", " ") for w in fields[4 : 4 + 2 * count : 2])
    at = 4 + 2 * count
    pointers = [fields[at + 1 + 4 * i : at + 5 + 4 * i] for i in range(int(fields[at]))]
    related: dict[str, list[str]] = {"@": [], "@i": [], "!": []}
    for symbol, offset, pos, _ in pointers:
        if symbol in related:
            related[symbol].append(pos + offset)
    gloss, examples = _split_gloss(tail.strip())
    if not 4 <= len(gloss) <= 320:
        return None
    return Synset(
        key=_PARTS[part] + fields[0],
        part=part,
        lexfile=int(fields[1]),
        words=tuple(dict.fromkeys(words)),
        gloss=gloss,
        examples=examples,
        hypernyms=tuple(related["@"] + related["@i"]),
        antonyms=tuple(related["!"]),
    )


def read_synsets(folder: Path) -> dict[str, Synset]:
    """All synsets by key, in file order, each with the rank (0 = most frequent sense) of each of its words."""
    synsets: dict[str, Synset] = {}
    for part, pos in _PARTS.items():
        for line in (folder / f"data.{part}").read_text("utf-8", "replace").splitlines():
            if line.startswith("  "):
                continue  # the licence header
            synset = _parse_data_line(line, part)
            if synset is not None:
                synsets[synset.key] = synset
        for line in (folder / f"index.{part}").read_text("utf-8", "replace").splitlines():
            if line.startswith("  "):
                continue
            fields = line.split()
            lemma, senses = fields[0].replace("_", " "), int(fields[2])
            for rank, offset in enumerate(fields[-senses:]):
                if pos + offset in synsets:
                    synsets[pos + offset].ranks[lemma] = rank
    return synsets


def _article(word: str) -> str:
    return ("an " if word[0] in "aeiouAEIOU" else "a ") + word


def _sentence(text: str) -> str:
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _meaning(synset: Synset, word: str, rng: Random) -> Turn:
    gloss = synset.gloss
    ask = [f'What does "{word}" mean?', f"What does '{word}' mean?", f'Define "{word}".', f"Define {word}."]
    if synset.part == "noun" and word[0].isupper():
        verb = "Who was" if synset.lexfile == _PERSON else "What is"
        ask = [f"{verb} {word}?", f"{verb} {word}?", f"Tell me about {word}."]
    elif synset.part == "noun":
        named = _article(word) if synset.lexfile in _COUNTED else word
        ask += [f"What is {named}?", f"What is {named}?", f"What is {named}?", f"Explain what {named} is."]
        if rng.random() < 0.3 and synset.lexfile in _COUNTED:
            return rng.choice(ask), _sentence(f"{_article(word)} is {gloss}")
    elif synset.part == "verb":
        ask += [f'What does it mean to "{word}"?', f"What does it mean to {word}?"]
        if rng.random() < 0.3:
            return rng.choice(ask), f"To {word} is to {gloss}."
    return rng.choice(ask), _sentence(gloss)


def _usage(synset: Synset, word: str, rng: Random) -> Turn | None:
    fitting = [e for e in synset.examples if word.lower()[: max(3, len(word) - 2)] in e.lower()]
    if not fitting:
        return None
    ask = [f'Use "{word}" in a sentence.', f"Use '{word}' in a sentence.", f'Give me an example of "{word}".']
    return rng.choice(ask), _sentence(rng.choice(fitting))


def _kind(synset: Synset, word: str, synsets: dict[str, Synset], rng: Random) -> Turn | None:
    parents = [synsets[k] for k in synset.hypernyms if k in synsets]
    if synset.part != "noun" or not parents:
        return None
    parent = parents[0].words[0]
    subject = word if word[0].isupper() else _article(word)
    ask = [f"What kind of thing is {subject}?", f"What sort of thing is {subject}?"]
    return rng.choice(ask), _sentence(f"{subject} is {_article(parent)}")


def _other_words(synset: Synset, word: str, rng: Random) -> Turn | None:
    others = [w for w in synset.words if w != word][:3]
    if not others:
        return None
    ask = [f'What is another word for "{word}"?', f'Give a synonym of "{word}".']
    return rng.choice(ask), ", ".join(others) + "."


def _opposite(synset: Synset, word: str, synsets: dict[str, Synset], rng: Random) -> Turn | None:
    opposites = [synsets[k] for k in synset.antonyms if k in synsets]
    if not opposites:
        return None
    ask = [f'What is the opposite of "{word}"?', f"What is the opposite of {word}?"]
    return rng.choice(ask), _sentence(opposites[0].words[0])


def conversations(synset: Synset, synsets: dict[str, Synset], rng: Random) -> list[list[Turn]]:
    """Conversations about one sense, for each of its first three words, except words of which it is a rare sense."""
    result: list[list[Turn]] = []
    for place, word in enumerate(synset.words[:3]):
        if place > 0 and synset.ranks.get(word.lower(), 0) > 1:
            continue
        turns: list[Turn] = [_meaning(synset, word, rng)]
        extra = [
            _usage(synset, word, rng),
            _kind(synset, word, synsets, rng) if rng.random() < 0.3 else None,
            _other_words(synset, word, rng) if rng.random() < 0.3 else None,
            _opposite(synset, word, synsets, rng),
        ]
        asked = [turn for turn in extra if turn is not None]
        rng.shuffle(asked)
        if rng.random() < 0.5:
            turns += asked[:2]
            result.append(turns)
        else:
            result.append(turns)
            result += [[turn] for turn in asked[:2]]
    return result

"""What the small files of a checkpoint show only together: found in seconds, before any weight is read.

Ids of the config against the vocabulary and the tokenizer, soft tokens of the config against the processor's, the
head's tie against the tensors; and remarks on what was ignored.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from g3n_compiler.checkpoint.fields import Section, present, show
from g3n_compiler.checkpoint.remark import Remark, no_remark
from g3n_compiler.checkpoint.tokenizer_json import ids_of, read_tokenizer_json
from g3n_compiler.errors import TokenizerError, WrongModel
from g3n_compiler.models.gemma3n.image_processor import read_image_processor
from g3n_compiler.models.gemma3n.media_tokens import media_tokens
from g3n_compiler.models.gemma3n.processor_files import (
    IMAGE,
    NEW,
    OLD,
    SOUND,
    check_class,
    check_count,
    processor_settings,
)
from g3n_compiler.models.gemma3n.rope_config import flat_base
from g3n_compiler.models.gemma3n.sound_processor import check_sound_processor
from g3n_compiler.models.gemma3n.text_config import TEXT_ONLY, text_section, ties_embeddings
from g3n_compiler.models.gemma3n.tower_config import TOWERS
from g3n_compiler.source import Source

UNREAD = ("attn_logit_softcapping", "use_bidirectional_attention")
"""Fields of sibling models that would change what Gemma 3n computes, if any code of it read them."""


class _Id(NamedTuple):
    field: str
    id: int
    token: str | None
    """The name under which ``tokenizer_config.json`` has its token."""


def check_folder(source: Source, remark: Remark = no_remark, tokenizer: Mapping[str, Any] | None = None) -> None:
    """Raise for what cannot be compiled, and remark on what a person should know.

    Args:
        tokenizer: the content of ``tokenizer.json``, if it has been read.

    Raises:
        WrongModel: files that are not of one model, or settings that a bundle cannot honour.
        TokenizerError: the tokenizer lacks a token of the config.
    """
    _check_head(source)
    _check_vocabulary(source)
    _check_tokenizer(source, tokenizer)
    _check_processors(source, remark)
    for sentence in _left_aside(source):
        remark(sentence)


def _check_head(source: Source) -> None:
    entries = source.checkpoint.entries
    if not ties_embeddings(source.checkpoint.config) and not any(name.endswith("lm_head.weight") for name in entries):
        whole = Section(source.checkpoint.config, "config.json")
        raise whole.wrong(
            "tie_word_embeddings",
            "true: the checkpoint has no lm_head.weight, and transformers would make up a random one; set it to true",
        )


def _ids(source: Source) -> Iterator[_Id]:
    """The ids of the config that a bundle uses."""
    yield _Id("bos_token_id", source.whole.bos_id, None)
    for id in source.whole.eos_ids:
        yield _Id("eos_token_id", id, None)
    if "vision" in source.modalities and (vision := source.vision) is not None:
        yield _Id("boi_token_id", vision.boi_id, "boi_token")
        yield _Id("image_token_id", vision.image_id, "image_token")
        yield _Id("eoi_token_id", vision.eoi_id, "eoi_token")
    if "audio" in source.modalities and (audio := source.audio) is not None:
        yield _Id("boa_token_id", audio.begin_id, "boa_token")
        yield _Id("audio_token_id", audio.soft_id, "audio_token")
        yield _Id("eoa_token_id", audio.end_id, "eoa_token")


def _check_vocabulary(source: Source) -> None:
    size = source.whole.vocab_size
    for field, id, _ in _ids(source):
        if id >= size:
            raise WrongModel(
                f"{_file(field)} has {field} {id}, expected an id below the vocab_size of {size}: correct it, or take "
                "the file of the model that the weights come from"
            )
    if {"vision", "audio"} <= {*source.modalities} and source.vision is not None and source.audio is not None:
        vision, audio = source.vision.embedder.ids, source.audio.embedder.ids
        if vision.stop > audio.start:
            raise WrongModel(
                f"config.json's vision_config has the ids {vision.start} to {vision.stop - 1} (vocab_offset and "
                f"vocab_size), expected them below those of audio_config, which begin at {audio.start}"
            )


def _check_tokenizer(source: Source, spec: Mapping[str, Any] | None) -> None:
    path = source.directory / "tokenizer.json"
    if not present(path):
        return  # said where the tokenizer is loaded
    ids = ids_of(read_tokenizer_json(path) if spec is None else spec)
    known, named = {*ids.values()}, media_tokens(source.directory, ids)
    for field, id, token in _ids(source):
        if id not in known:
            raise TokenizerError(
                f"tokenizer.json has no token {id}, which {_file(field)} names as {field}: correct it, or take the "
                "tokenizer of the model that the weights come from"
            )
        if named.get(token or "", id) != id:
            raise WrongModel(
                f"config.json has {field} {id}, expected {named[token or '']}, the id of tokenizer_config.json's "
                f"{token}, which transformers writes into prompts: correct one of the two"
            )


def _check_processors(source: Source, remark: Remark) -> None:
    if {"vision", "audio"} & {*source.modalities}:
        check_class(source.directory)
    if "vision" in source.modalities and source.vision is not None:
        settings = processor_settings(source.directory, IMAGE, ())
        if settings is not None and read_image_processor(source.directory, remark) is not None:
            check_count(source.directory, "image_seq_length", source.vision.soft_tokens)
            if settings.raw("do_pan_and_scan") not in (None, False):
                remark(f"{settings.where} has do_pan_and_scan, which Gemma 3n's processor does not read: ignored")
        else:
            remark(f"neither {NEW} nor {OLD} says how pictures are prepared: as for the published model")
    if "audio" in source.modalities and source.audio is not None:
        check_sound_processor(source.directory, source.audio.mel_bins, remark)
        if processor_settings(source.directory, SOUND, ()) is not None:
            check_count(source.directory, "audio_seq_length", source.audio.max_soft_tokens)
        else:
            remark(f"neither {NEW} nor {OLD} says how sound is prepared: as for the published model")


def _left_aside(source: Source) -> Iterator[str]:
    text, whole = text_section(source.checkpoint.config), Section(source.checkpoint.config, "config.json")
    if (sentence := flat_base(text)) is not None:
        yield sentence
    for name in UNREAD:
        if text.raw(name) not in (None, False):
            yield f"{text.where} has {name} {show(text.raw(name))}, which Gemma 3n's code does not read: ignored"
    names = [name.removeprefix("model.") for name in source.checkpoint.entries]
    stored = [name for name in source.checkpoint.entries if source.tower_of(name) is not None]
    if stored and not source.naming.has_towers:
        yield (
            f"config.json is of a text model alone (model_type '{TEXT_ONLY}'), so {len(stored)} tensors of towers, "
            f"e.g. {min(stored)!r}, are ignored, as in transformers: for pictures and sounds take the config.json "
            "of the model with towers"
        )
    for tower in TOWERS:
        if tower in source.towers or whole.raw("model_type") == TEXT_ONLY:
            continue
        embedder = any(name.startswith(f"embed_{tower}.") for name in names)
        if embedder or f"{tower}_config" in whole:
            what = f"embed_{tower}, but no {tower}_tower" if embedder else f"no tensor of the {tower} tower"
            yield f"the checkpoint has {what}: it is compiled without {tower}"


def _file(field: str) -> str:
    return "config.json or generation_config.json" if field == "eos_token_id" else "config.json"

"""How the checkpoint's author wants answers drawn: ``generation_config.json``, as ``transformers`` reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.fields import Section, present, read_json
from g3n_compiler.checkpoint.reader import GENERATION
from g3n_compiler.checkpoint.remark import Remark, no_remark
from g3n_compiler.errors import WrongModel
from g3n_compiler.models.gemma3n.text_config import MAX_ID

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "repetition_penalty": (1, 1.0),
    "encoder_repetition_penalty": (1, 1.0),
    "no_repeat_ngram_size": (0,),
    "min_p": (0, 0.0),
    "typical_p": (1, 1.0),
    "epsilon_cutoff": (0, 0.0),
    "eta_cutoff": (0, 0.0),
    "top_h": (),
    "num_beams": (1,),
    "min_length": (0,),
    "min_new_tokens": (0,),
    "bad_words_ids": ([],),
    "suppress_tokens": ([],),
    "begin_suppress_tokens": ([],),
    "sequence_bias": ({}, []),
    "stop_strings": ([], ""),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "exponential_decay_length_penalty": (),
    "guidance_scale": (1, 1.0),
    "penalty_alpha": (0, 0.0),
    "watermarking_config": (),
}
"""Settings that change what is drawn and that no engine of ours has, with the values that change nothing."""


@dataclass(frozen=True)
class Sampler:
    """How a token is drawn; the defaults are Gemma 3n's own. A temperature of 0 takes the likeliest."""

    temperature: float = 1.0
    top_k: int = 64
    top_p: float = 0.95


GREEDY = Sampler(0.0, 1, 1.0)
LIBRARY = Sampler(1.0, 50, 1.0)
"""What ``transformers`` takes for a setting that is missing or null."""


def load_sampler(directory: Path, vocab_size: int, remark: Remark = no_remark) -> Sampler:
    """The sampler that ``generate`` uses for this folder; Gemma 3n's own if it has no ``generation_config.json``.

    Args:
        vocab_size: what a ``top_k`` of 0 stands for, since engines take 0 otherwise than ``transformers``.

    Raises:
        WrongModel: a setting is none that can be.
    """
    path = directory / GENERATION
    if not present(path):
        remark(f"there is no {GENERATION}: answers are drawn as Gemma 3n's are by default")
        return Sampler()
    raw = Section(read_json(path), path.name, WrongModel)
    for name, neutral in NEUTRAL.items():
        if name in raw and raw.raw(name) not in neutral:
            remark(f"{path.name} sets {name}, which no engine has: answers are drawn without it")
    # Checked also where it is not used: a wrong one is more likely a damaged file than a wish.
    temperature = raw.number("temperature", LIBRARY.temperature, 0.0, 1000.0) if "temperature" in raw else None
    top_k = raw.integer("top_k", LIBRARY.top_k, 0, MAX_ID, null=True)
    top_p = raw.number("top_p", LIBRARY.top_p, 0.0, 1.0) if "top_p" in raw else LIBRARY.top_p
    if not raw.flag("do_sample", False):
        if temperature not in (None, 1.0) or "top_k" in raw or "top_p" in raw:
            remark(f"{path.name} does not set do_sample: answers are greedy, as in transformers")
        return GREEDY
    if top_p == 0:  # which keeps the likeliest token alone
        return GREEDY
    return Sampler(LIBRARY.temperature if temperature is None else temperature, top_k or vocab_size, top_p)

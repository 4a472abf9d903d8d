"""What an adapter's configuration says about merging it; PEFT's options are taken by name, and no other.

Source: PEFT's ``LoraConfig``, ``LoraModel._create_and_replace`` and ``LoraLayer.update_layer``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from g3n_compiler.checkpoint.name_pattern import BadPattern, NamePattern, Steps
from g3n_compiler.errors import CheckpointError
from g3n_runtime.reading import read_json_object

CONFIG = "adapter_config.json"
MAX_CONFIG_BYTES = 1 << 20
MAX_RANK = 1 << 20
"""More than any matrix has rows."""
LARGEST_SCALE = 1e4
"""Limit of the factor on what is added to a weight. Published ones are 0.5 to 64; far beyond it float32 overflows."""
MAX_PATTERNS = 10_000
DEFAULT_RANK = DEFAULT_ALPHA = 8
"""PEFT's, for a configuration without them."""
MERGE = "merge it with PEFT's merge_and_unload() first, and compile the checkpoint that save_pretrained() then writes"

HARMLESS = frozenset({
    # which model it belongs to and what made it
    "auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type",
    # what training alone uses
    "lora_dropout", "megatron_core", "merge_weights", "qalora_group_size", "runtime_config",
    # which modules have tensors; the file shows it
    "exclude_modules", "layers_pattern", "layers_to_transform", "target_modules",
    # settings of an initialisation: PEFT ignores those of one that init_lora_weights does not name
    "corda_config", "eva_config", "loftq_config", "lora_ga_config",
    # PEFT sets it to false for every layer that Gemma 3n has
    "fan_in_fan_out",
    # the tensors that it ties are compared
    "ensure_weight_tying",
})  # fmt: skip
"""Options that leave the merged weights alone, whatever they are set to."""
READ = frozenset({
    "alpha_pattern", "bias", "init_lora_weights", "lora_alpha", "modules_to_save", "r", "rank_pattern",
    "target_parameters", "trainable_token_indices", "use_rslora",
})  # fmt: skip
"""Options that decide what is merged; each is read below."""
REFUSED = {
    "alora_invocation_tokens": "it acts only after these tokens, which merged weights cannot do: train a plain LoRA",
    "arrow_config": "it chooses adapters for each token, which merged weights cannot do: pass one of its adapters",
    "layer_replication": "it belongs to a model with repeated layers, which is no Gemma 3n",
    "lora_bias": "it adds biases to layers that have none, which PEFT cannot merge either: train without it",
    "use_dora": f"its rows are scaled by magnitudes: {MERGE}",
}
"""Why an option is not merged here; all others that are set are refused by name alone."""
PLAIN_STARTS = ("gaussian", "eva", "orthogonal", "mica")
"""Values of ``init_lora_weights``, beside true and false, for which training started from the checkpoint's own
weights."""
CONVERTED = ("pissa", "olora", "corda", "lora_ga")
"""Values that change the checkpoint's weights first; PEFT can write such an adapter as a plain one."""


@dataclass(frozen=True)
class LoraSettings:
    """An adapter's configuration, as far as it decides what is merged."""

    path: Path
    rank: int
    alpha: float
    rslora: bool
    ranks: Patterns
    alphas: Patterns
    saved: tuple[str, ...]
    """Ends of the names of the modules that are saved whole."""
    tokens: dict[str | None, tuple[int, ...]]
    """Rows that are trained alone, by the end of the embedding's name; ``None`` is the model's input embedding."""
    parameters: tuple[str, ...]
    """Parameters that are adapted by their own name."""

    @classmethod
    def read(cls, directory: Path) -> LoraSettings:
        """The settings of the adapter in ``directory``.

        Raises:
            CheckpointError: they are damaged, or one of them is not known to be merged exactly here.
        """
        path = directory / CONFIG
        config = read_json_object(path, CheckpointError, MAX_CONFIG_BYTES)
        if "peft_type" not in config:
            made = "MLX's settings" if "lora_parameters" in config else "settings without peft_type"
            raise CheckpointError(
                f"{path} has {made}, but only PEFT's adapters are read: fuse it with the tool that trained it, and "
                "compile the checkpoint that it then writes"
            )
        if (kind := config.get("peft_type")) != "LORA":
            raise CheckpointError(f"{path} is of type {str(kind)[:40]!r}, expected LORA: {MERGE}")
        _check_options(config, path)
        rank, alpha, rslora = (
            config.get("r", DEFAULT_RANK),
            config.get("lora_alpha", DEFAULT_ALPHA),
            config.get("use_rslora"),
        )
        if type(rank) is not int or type(alpha) not in (int, float):
            raise CheckpointError(f"{path} has no usable r and lora_alpha, expected two numbers")
        if rslora is not None and type(rslora) is not bool:
            raise CheckpointError(f"{path} has no usable use_rslora, expected true or false")
        steps = Steps()
        settings = cls(
            path=path,
            rank=rank,
            alpha=alpha,
            rslora=bool(rslora),
            ranks=Patterns(config, "rank_pattern", path, steps),
            alphas=Patterns(config, "alpha_pattern", path, steps),
            saved=_names(config, "modules_to_save", path),
            tokens=_tokens(config.get("trainable_token_indices"), path),
            parameters=_names(config, "target_parameters", path),
        )
        settings.check(rank, alpha)
        for name in settings.parameters:
            if name.rpartition(".")[2] != "weight":
                raise CheckpointError(f"{path} has target_parameters with {name[:80]!r}, expected a weight: {MERGE}")
        return settings

    def rank_and_alpha(self, module: str) -> tuple[int, float]:
        """Of one adapted module, by the name that it had in training."""
        # PEFT looks a parameter up by its own name, a module by the module's.
        if any(f".{module}.weight".endswith(f".{name}") for name in self.parameters):
            module += ".weight"
        rank = self.ranks.value(module, self.rank, first=True)
        return int(rank), self.alphas.value(module, self.alpha)

    def check(self, rank: float, alpha: float) -> None:
        """Raise :class:`CheckpointError` unless a rank and an alpha give a scale that float32 can hold."""
        if not 1 <= rank <= MAX_RANK:
            raise CheckpointError(f"{self.path} has rank {_shown(rank)}, expected 1 to {MAX_RANK}")
        # Compared before dividing: an integer may be larger than any float.
        if abs(alpha) > LARGEST_SCALE * rank:
            raise CheckpointError(
                f"{self.path} has lora_alpha {_shown(alpha)} for rank {rank}, expected at most "
                f"{LARGEST_SCALE:g} times the rank"
            )

    def scale(self, rank: int, alpha: float) -> float:
        """The factor on ``B @ A``."""
        self.check(rank, alpha)
        return alpha / math.sqrt(rank) if self.rslora else alpha / rank


class Patterns:
    """``rank_pattern`` or ``alpha_pattern``: other values for the modules whose names match."""

    def __init__(self, config: dict[str, Any], option: str, path: Path, steps: Steps) -> None:
        self._where = f"{path} has {option} with"
        given = config.get(option) or {}
        numbers = (int,) if option == "rank_pattern" else (int, float)
        if not isinstance(given, dict) or any(type(value) not in numbers for value in given.values()):
            raise CheckpointError(f"{path} has no usable {option}, expected numbers by name")
        if len(given) > MAX_PATTERNS:
            raise CheckpointError(f"{path} has {len(given)} names in {option}, at most {MAX_PATTERNS} are read")
        self._exact: dict[str, float] = given
        self._patterns: list[tuple[str, NamePattern]] = []
        for text in given:
            with self._naming(text):
                self._patterns.append((text, NamePattern(text, steps)))

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def value(self, name: str, default: float, first: bool = False) -> float:
        """The value of module ``name``.

        Args:
            first: of several that differ the first is taken. PEFT takes the first too, but sorts them when it saves, so
                that only a value which something else confirms is certain.
        """
        found: list[float] = []
        for text, pattern in self._patterns:
            with self._naming(text):
                found += [self._exact[text]] if pattern.matches(name) else []
        found = found or [self._exact.get(name, default)]
        if not first and len(set(found)) > 1:
            raise CheckpointError(
                f"{self._where} two values for {name[:200]!r}, {_shown(found[0])} and {_shown(found[1])}, and their "
                "order in training is not known: write one pattern for each module"
            )
        return found[0]

    @contextmanager
    def _naming(self, text: str) -> Iterator[None]:
        try:
            yield
        except BadPattern as reason:
            raise CheckpointError(f"{self._where} {text[:80]!r}, which {reason}: name the modules plainly") from None


def _check_options(config: dict[str, Any], path: Path) -> None:
    # What is null, false or empty is not used; PEFT writes such values for options of every later version.
    found = sorted(key for key, value in config.items() if value and key not in HARMLESS and key not in READ)
    for key in found:
        if key in REFUSED:
            raise CheckpointError(f"{path} uses {key}: {REFUSED[key]}")
    if found:
        raise CheckpointError(f"{path} uses {', '.join(found)[:200]}, which is not known here: {MERGE}")
    start = config.get("init_lora_weights", True)
    if start is not None and type(start) is not bool and not (isinstance(start, str) and start.lower() in PLAIN_STARTS):
        advice = f"with the very weights that it was trained on, {MERGE}"
        if isinstance(start, str) and start.lower().startswith(CONVERTED):
            advice = "save it as a plain LoRA with save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        raise CheckpointError(
            f"{path} was trained from weights that {str(start)[:40]!r} had changed (init_lora_weights), so it does not "
            f"belong to the checkpoint's own: {advice}"
        )
    if config.get("bias") not in (None, "none"):
        raise CheckpointError(f"{path} trains biases (bias {str(config['bias'])[:40]!r}): {MERGE}")


def _names(config: dict[str, Any], option: str, path: Path) -> tuple[str, ...]:
    value = config.get(option) or ()
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) and name for name in value):
        raise CheckpointError(f"{path} has no usable {option}, expected a list of names")
    return tuple(value)


def _tokens(value: Any, path: Path) -> dict[str | None, tuple[int, ...]]:
    given: dict[str | None, Any] = value if isinstance(value, dict) else {None: value}
    for rows in given.values() if value else ():
        if not isinstance(rows, list) or any(type(row) is not int or row < 0 for row in rows):
            raise CheckpointError(f"{path} has no usable trainable_token_indices, expected lists of token ids")
        if len(set(rows)) != len(rows):
            raise CheckpointError(f"{path} lists a token twice in trainable_token_indices, so its value is ambiguous")
    return {name: tuple(rows) for name, rows in given.items() if rows}


def _shown(number: float) -> str:
    """A number of any size in a message."""
    text = str(number)
    return text if len(text) <= 20 else f"{text[:17]}..."

"""Which task shows that one mechanism of Gemma 3n is broken: nano in ``transformers``, broken on purpose.

    python benchmarks/mechanisms.py [--examples 200]

Each mechanism is broken alone, in float32. The table gives the accuracy of each task (held-out examples, exact match,
greedy decoding: an answer is right if each of its tokens is the most likely one after those before it), and the
log-likelihood of the answers per token against the whole model's, with its standard error over the examples.

A mechanism is shown by a task that loses more than 5 points and three standard errors, otherwise by the log-likelihood
if that moves by more than three standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from g3n_compiler.checkpoint.tokenizer import TextTokenizer, load_tokenizer
from g3n_compiler.cli.common import reports_errors
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.models.gemma3n.transformers_model import load_hf
from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.nano.tasks import Example, first_of_each, read_examples
from g3n_compiler.source import TEXT, Source

_BATCH_TOKENS = 6000
_CLEAR = 3.0
"""Standard errors by which a figure must move to count."""
_POINTS = 0.05


@dataclass(frozen=True)
class Scores:
    """Of each example: whether its last answer is right, and its log-likelihood in nats per token."""

    right: list[bool]
    likelihood: list[float]


def _whole(model: Any) -> None:
    """Nothing is broken."""


def _window(model: Any) -> None:
    model.config.sliding_window -= 1


def _wrong_owner(model: Any) -> None:
    """The KV-shared sliding layers read the cache of the sliding layer before their owner."""
    layers = model.model.layers
    owner = next(
        layer.self_attn for layer in layers if layer.self_attn.store_full_length_kv and layer.self_attn.is_sliding
    )
    before = layers[owner.layer_idx - 1].self_attn
    owner.store_full_length_kv, before.store_full_length_kv = False, True


def _rope(model: Any) -> None:
    rotary = model.model.rotary_emb
    rotary.sliding_attention_inv_freq = rotary.full_attention_inv_freq.clone()


def _prediction(model: Any) -> None:
    for layer in model.model.layers:
        layer.altup.prediction_coefs.weight.zero_()


def _correction(model: Any) -> None:
    for layer in model.model.layers:
        layer.altup.correct = lambda predictions, activated: predictions


def _laurel(model: Any) -> None:
    for layer in model.model.layers:
        layer.laurel.post_laurel_norm.weight.zero_()


def _per_layer_input(model: Any) -> None:
    for layer in model.model.layers:
        layer.post_per_layer_input_norm.weight.zero_()


def _sparsity(model: Any) -> None:
    for layer in model.model.layers:
        layer.mlp.activation_sparsity = 0.0


def _softcap(model: Any) -> None:
    model.config.final_logit_softcapping = None


def _head_norm(model: Any) -> None:
    """The first query head of each layer is not normed."""
    for layer in model.model.layers:
        norm = layer.self_attn.q_norm
        norm.register_forward_hook(lambda _, given, normed: torch.cat((given[0][..., :1, :], normed[..., 1:, :]), -2))


MECHANISMS: dict[str, Callable[[Any], None]] = {
    "nothing": _whole,
    "a window one too short": _window,
    "a shared layer reads the wrong owner's cache": _wrong_owner,
    "global RoPE on local layers": _rope,
    "AltUp's prediction left out": _prediction,
    "AltUp's correction left out": _correction,
    "LAUREL left out": _laurel,
    "the per-layer input left out": _per_layer_input,
    "no sparsity": _sparsity,
    "no soft cap": _softcap,
    "one head's norm left out": _head_norm,
}


def score(model: Any, tokenizer: TextTokenizer, examples: Sequence[Example]) -> Scores:
    """Teacher-forced over the last answer of each example."""
    rows = [_ids(example, tokenizer) for example in examples]
    right, likelihood = [False] * len(rows), [0.0] * len(rows)
    for places in _batches([len(ids) for ids, _ in rows]):
        padded = torch.nn.utils.rnn.pad_sequence([rows[i][0] for i in places], batch_first=True)
        with torch.no_grad():
            logits = model(input_ids=padded, use_cache=False).logits
        for row, i in enumerate(places):
            ids, begin = rows[i]
            own, wanted = logits[row, begin - 1 : len(ids) - 1], ids[begin:]
            right[i] = bool((own.argmax(-1) == wanted).all())
            likelihood[i] = -float(F.cross_entropy(own, wanted))
    return Scores(right, likelihood)


def _ids(example: Example, tokenizer: TextTokenizer) -> tuple[Tensor, int]:
    """The whole conversation, and where its last answer begins."""
    prompt = [tokenizer.bos_id, *tokenizer.encode(example.prompt)]
    return torch.tensor([*prompt, *tokenizer.encode(example.pieces()[-1][0])]), len(prompt)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of rows of similar length, with at most so many padded tokens in a batch."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if batch and (len(batch) + 1) * lengths[i] > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(i)
    yield batch


def compare(examples: Sequence[Example], broken: Scores, whole: Scores) -> tuple[dict[str, float], float, float, str]:
    """Accuracy by task, the change of log-likelihood per token, its standard error, and what shows the difference."""
    tasks = dict.fromkeys(example.task for example in examples)
    accuracy, lost = {}, []
    for task in tasks:
        own = [i for i, example in enumerate(examples) if example.task == task]
        accuracy[task] = sum(broken.right[i] for i in own) / len(own)
        mean, error = _mean([float(whole.right[i]) - float(broken.right[i]) for i in own])
        if mean > _POINTS and mean > _CLEAR * error:
            lost.append((mean, task))
    mean, error = _mean([b - w for b, w in zip(broken.likelihood, whole.likelihood, strict=True)])
    if lost:
        return accuracy, mean, error, f"{max(lost)[1]} (-{100 * max(lost)[0]:.0f} points)"
    return accuracy, mean, error, "log-likelihood" if abs(mean) > _CLEAR * error else "nothing"


def _mean(values: Sequence[float]) -> tuple[float, float]:
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((v - mean) ** 2 for v in values)) / len(values)


@click.command()
@click.option("--examples", "count", default=200, show_default=True, help="Of each task.")
@click.option("--threads", default=2, show_default=True)
@click.argument("checkpoint", default=checkpoint_dir(), type=click.Path(path_type=Path))
@reports_errors
def main(count: int, threads: int, checkpoint: Path) -> None:
    """Print the table."""
    torch.set_num_threads(threads)
    source = Source.open(checkpoint, modalities=(TEXT,))
    tokenizer = load_tokenizer(source.directory, gemma3n_config(source.text))
    examples = [e for e in first_of_each(read_examples(), count) if not e.media]
    tasks = list(dict.fromkeys(example.task for example in examples))
    console = Console(width=200, highlight=False)
    console.print(f"{count} held-out examples of each task; right answers in percent\n")
    console.print(f"| broken | {' | '.join(tasks)} | log-likelihood per token | shown by |")
    console.print("|---" * (len(tasks) + 3) + "|")
    whole: Scores | None = None
    for name, break_it in MECHANISMS.items():
        model = load_hf(source)
        with torch.no_grad():
            break_it(model)
        found = score(model, tokenizer, examples)
        whole = whole or found
        accuracy, mean, error, shown = compare(examples, found, whole)
        cells = " | ".join(f"{100 * accuracy[task]:.0f}" for task in tasks)
        moved = f"{mean:+.4f} ± {error:.4f} | {shown}" if found is not whole else " | "
        console.print(f"| {name} | {cells} | {moved} |", soft_wrap=True)


if __name__ == "__main__":
    main()

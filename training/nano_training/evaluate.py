"""Measure a checkpoint on the held-out documents: ``python -m nano_training.evaluate [DIR] [options]``.

All perplexities are in fp32 and per token, with each document starting at its ``<bos>`` (which is not counted).
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

from g3n_compiler.nano import SKIPPABLE, checkpoint_dir, heldout_path
from nano_training import corpus
from nano_training.config import slice_config, slice_weights
from nano_training.ngram import ORDER, KneserNey
from nano_training.tokens import encode_documents
from nano_training.towers import text_weights

_BATCH_TOKENS = 4096


def load(folder: Path) -> Gemma3nForCausalLM:
    """The checkpoint's text model in fp32 with plain ("eager") attention, the reference for every figure."""
    config = Gemma3nTextConfig.from_pretrained(folder)
    config._attn_implementation, config.dtype = "eager", torch.float32
    model = Gemma3nForCausalLM(config).eval()
    stored = {name.replace("model.language_model.", "model."): t for name, t in text_weights(folder).items()}
    # what remains are the dead weights of KV-shared layers
    model.load_state_dict(
        {name: stored[name].float() for name in model.state_dict() if name != "lm_head.weight"}, False
    )
    return model


def losses(model: Gemma3nForCausalLM, documents: Sequence[Tensor]) -> list[float]:
    """Summed loss in nats of each document. Documents are padded on the right, where causality hides the padding."""
    result = [0.0] * len(documents)
    for places in _batches(documents):
        rows = nn.utils.rnn.pad_sequence([documents[i] for i in places], batch_first=True)
        with torch.no_grad():
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        each = F.cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")
        for row, i in enumerate(places):
            result[i] = each[row, : len(documents[i]) - 1].sum().item()
    return result


def _batches(documents: Sequence[Tensor]) -> list[list[int]]:
    """Indices of documents of similar length, with at most ``_BATCH_TOKENS`` padded tokens per batch."""
    batches: list[list[int]] = [[]]
    for i in sorted(range(len(documents)), key=lambda i: len(documents[i])):
        if batches[-1] and (len(batches[-1]) + 1) * len(documents[i]) > _BATCH_TOKENS:
            batches.append([])
        batches[-1].append(i)
    return batches


def perplexity(model: Gemma3nForCausalLM, documents: Sequence[Tensor]) -> float:
    """Perplexity per token over all ``documents`` (int64 ids, ``<bos>`` first)."""
    return math.exp(sum(losses(model, documents)) / sum(len(d) - 1 for d in documents))


def sliced(model: Gemma3nForCausalLM, width: int, skip: Sequence[int] = ()) -> Gemma3nForCausalLM:
    """The MatFormer slice of ``model`` with FFNs of ``width`` and without layers ``skip``."""
    widths = [width] * (model.config.num_hidden_layers - len(skip))
    config = slice_config(model.config, widths, skip)
    config._attn_implementation = "eager"
    part = Gemma3nForCausalLM(config).eval()
    part.load_state_dict(slice_weights(model.state_dict(), model.config, widths, skip))
    return part


def round_to_nearest(weight: Tensor, bits: int) -> Tensor:
    """``weight`` (rows, columns) after symmetric rounding to ``bits``, one scale per row: the simplest recipe."""
    limit = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / limit
    return (weight / scale).round().clamp(-limit, limit) * scale


def rounded(model: Gemma3nForCausalLM, bits: int) -> Gemma3nForCausalLM:
    """A copy of ``model`` with every 2-D weight rounded, including embeddings, per-layer embeddings and head."""
    copy = Gemma3nForCausalLM(model.config).eval()
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        for weight in copy.parameters():  # the tied head is listed once
            if weight.dim() == 2:
                weight.copy_(round_to_nearest(weight, bits))
    return copy


def by_kind(kinds: Sequence[str], documents: Sequence[Tensor], nats: Sequence[float]) -> dict[str, float]:
    """Perplexity of each kind of document, from each document's summed loss ``nats``."""
    result: dict[str, float] = {}
    for kind in sorted(set(kinds)):
        places = [i for i, k in enumerate(kinds) if k == kind]
        result[kind] = math.exp(sum(nats[i] for i in places) / sum(len(documents[i]) - 1 for i in places))
    return result


def measure(model: Gemma3nForCausalLM, kinds: Sequence[str], documents: Sequence[Tensor]) -> dict[str, float]:
    """Perplexities by name: of the model (overall and by kind of document), its slices, and its rounded copies."""
    half = model.config.intermediate_size[0] // 2
    nats = losses(model, documents)
    return {
        "full": by_kind([""] * len(documents), documents, nats)[""],
        **{f"full, {kind} only": value for kind, value in by_kind(kinds, documents, nats).items()},
        "half width": perplexity(sliced(model, half), documents),
        "half width, layers 5 and 6 skipped": perplexity(sliced(model, half, SKIPPABLE), documents),
        "round-to-nearest int8": perplexity(rounded(model, 8), documents),
        "round-to-nearest int4": perplexity(rounded(model, 4), documents),
    }


def measure_ngram(
    cache: Path, tokenizer_json: Path, kinds: Sequence[str], documents: Sequence[Tensor]
) -> dict[str, float]:
    """The perplexity of a Kneser-Ney model of the whole training text (fetched into ``cache``) on the same held-out
    tokens.
    """
    ngram, name = KneserNey(encode_documents(corpus.build(cache).train, tokenizer_json)), f"Kneser-Ney {ORDER}-gram"
    figures = {name: ngram.perplexity(documents)}
    for kind in sorted(set(kinds)):
        own = [document for document, k in zip(documents, kinds, strict=True) if k == kind]
        figures[f"{name}, {kind} only"] = ngram.perplexity(own)
    return figures


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True), default=checkpoint_dir())
@click.option("--heldout", type=click.Path(path_type=Path, exists=True), default=heldout_path())
@click.option("--limit", type=int, default=None, help="only the first so many documents")
@click.option("--ngram", type=click.Path(path_type=Path), default=None, help="corpus folder: adds the n-gram baseline")
@click.option("--json", "as_json", is_flag=True, help="print JSON instead of a table")
@click.option("--threads", default=2, show_default=True)
def main(folder: Path, heldout: Path, limit: int | None, ngram: Path | None, as_json: bool, threads: int) -> None:
    """Held-out perplexity of the checkpoint in FOLDER (the embedded one if left out), its slices and roundings."""
    torch.set_num_threads(threads)
    selected = corpus.read_documents(heldout)[:limit]
    documents = encode_documents(selected, folder / "tokenizer.json")
    kinds = [d.kind for d in selected]
    figures = measure(load(folder), kinds, documents)
    full = figures["full"]
    if ngram is not None:
        figures |= measure_ngram(ngram, folder / "tokenizer.json", kinds, documents)
    console = Console()
    if as_json:
        console.print_json(json.dumps(figures))
        return
    table = Table("what", "perplexity", "against full", title=f"{len(documents)} held-out documents")
    for what, value in figures.items():
        comparable = what != "full" and not what.endswith(" only")
        table.add_row(what, f"{value:.3f}", f"{value / full - 1:+.2%}" if comparable else "")
    console.print(table)


if __name__ == "__main__":
    main()

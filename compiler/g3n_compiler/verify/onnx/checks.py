"""Run every subgraph in onnxruntime and compare it with our eager decoder, in float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import nn

from g3n_compiler.lower.signatures.cache import TorchOps, kv_cache_shapes
from g3n_compiler.lower.signatures.text import DECODE, Decode, Prefill, trace_inputs, used_weights
from g3n_compiler.lower.subgraphs import Subgraph
from g3n_compiler.models.embedding_tables import EmbeddingTables, embedding_weights
from g3n_compiler.models.gemma3n.text_config import TextConfig, gemma3n_config
from g3n_compiler.models.weights import WeightSpec
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import EXACT, Check, relative_error
from g3n_compiler.verify.onnx.export import OnnxSession, PerLayerEmbedding, TokenEmbedding, export_onnx

CHUNK = 32
MASKED = -1e9
RUNTIME = "onnxruntime"
Table = Callable[[TextConfig], nn.Module]
NEXT = "next_kv_cache_"
"""Outputs need names that differ from the inputs they replace."""


def onnx_checks(source: Source, ids: Sequence[int], expected: np.ndarray, limit: float = EXACT) -> list[Check]:
    """Run a prompt through ``prefill`` in padded chunks, the last tokens through ``decode``, and both table look-ups.

    Args:
        ids: golden token ids, longer than the sliding window.
        expected: eager float32 logits ``[T, vocab]`` for the same ids.
        limit: relative error of logits that float32 may have here.
    """
    model = _OnnxDecoder(source, len(ids))
    prompt = len(ids) - 3
    model.prefill(ids[:prompt])
    logits = np.concatenate([model.decode(i, ids[i]) for i in range(prompt, len(ids))])
    error = relative_error(logits, expected[prompt:])
    what = f"{prompt} tokens prefilled, {len(ids) - prompt} decoded"
    checks = [Check(what, "core", RUNTIME, "eager fp32", "relative error", error, limit)]
    return checks + _table_checks(source, ids)


def _table_checks(source: Source, ids: Sequence[int]) -> list[Check]:
    config = gemma3n_config(source.text).whole
    specs, tables = embedding_weights(config), EmbeddingTables(config, source.read)
    probe = [0, config.ple_vocab_size - 1, config.vocab_size - 1, *ids]
    token_ids = np.array(probe, np.int64)
    checks = []
    found: tuple[tuple[Subgraph, WeightSpec, Table, torch.Tensor], ...] = (
        ("token_embedding", specs["embed_tokens"], TokenEmbedding, tables.embeddings(probe)),
        ("per_layer_embedding", specs["embed_tokens_per_layer"], PerLayerEmbedding, tables.ple(probe)),
    )
    for name, spec, module, expected in found:
        given = {"token_ids": token_ids, "table": source.read(spec).numpy()}
        got = OnnxSession(_table_model(module, config, spec.shape, len(probe)))(given)["embeddings"]
        error = relative_error(got.reshape(len(probe), -1), expected.numpy().reshape(len(probe), -1))
        checks.append(Check(f"{len(probe)} rows", name, RUNTIME, "eager fp32", "relative error", error, EXACT))
    return checks


@cache
def _table_model(module: Table, config: TextConfig, shape: tuple[int, ...], count: int) -> bytes:
    """A look-up of ``count`` rows; the table is an input, so any checkpoint of this shape has the same model."""
    inputs = {"token_ids": torch.zeros(count, dtype=torch.int64), "table": torch.zeros(shape)}
    return export_onnx(module(config), inputs, ["embeddings"])


@cache
def _decoder_models(config: TextConfig, context: int) -> dict[str, bytes]:
    """The signatures by name; weights are inputs, so any checkpoint of this shape has the same models."""
    names = [f"{NEXT}{kind}_{i}" for i in range(config.num_kv_layers) for kind in "kv"]
    return {
        name: export_onnx(module.eval(), trace_inputs(module, context, length), outputs)
        for name, module, length, outputs in (
            ("prefill", Prefill(config, TorchOps()), CHUNK, names),
            (DECODE, Decode(config, TorchOps()), 1, [*names, "logits"]),
        )
    }


class _OnnxDecoder:
    """The prefill and decode signatures in onnxruntime, with float32 weights as inputs."""

    def __init__(self, source: Source, context: int) -> None:
        config, context = gemma3n_config(source.text), max(context, CHUNK)  # a cache holds at least one chunk
        self._config, self._context = config, context
        self._tables = EmbeddingTables(config, source.read)
        self._cache = {f"kv_cache_{n}": np.zeros(s, np.float32) for n, s in kv_cache_shapes(config, context).items()}
        self._weights: dict[str, np.ndarray] = {}
        self._sessions = {name: OnnxSession(model) for name, model in _decoder_models(config, context).items()}
        for spec in used_weights(Decode(config, TorchOps()), context, 1).values():
            self._weights[spec.input_name] = source.read(spec).numpy()

    def prefill(self, ids: Sequence[int]) -> None:
        for start in range(0, len(ids), CHUNK):
            self._run("prefill", start, ids[start : start + CHUNK], CHUNK)

    def decode(self, position: int, token: int) -> np.ndarray:
        """Logits ``[1, vocab]``."""
        return self._run(DECODE, position, [token], 1)["logits"][0]

    def _run(self, name: str, start: int, ids: Sequence[int], length: int) -> dict[str, np.ndarray]:
        n, c = len(ids), self._config
        embeddings = np.zeros((1, length, c.hidden_size), np.float32)
        embeddings[:, :n] = self._tables.embeddings(ids).numpy()
        ple = np.zeros((1, length, c.num_layers, c.ple_dim), np.float32)
        ple[:, :n] = self._tables.ple(ids).numpy()
        positions = np.zeros(length, np.int32)
        positions[:n] = np.arange(start, start + n)
        seen = np.arange(self._context)[None] <= positions[:n, None]
        mask = np.full((1, 1, length, self._context), MASKED, np.float32)
        mask[0, 0, :n][seen] = 0
        inputs = {"embeddings": embeddings, "per_layer_embeddings": ple, "input_pos": positions, "mask": mask}
        out = self._sessions[name](inputs | self._cache | self._weights)
        self._cache = {k.removeprefix("next_"): v for k, v in out.items() if k.startswith(NEXT)}
        return out

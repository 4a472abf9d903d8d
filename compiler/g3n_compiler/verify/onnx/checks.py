"""Run every subgraph in onnxruntime and compare it with our eager decoder, in float32."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from g3n_compiler.lower.signatures.cache import TorchOps, kv_cache_shapes
from g3n_compiler.lower.signatures.text import DECODE, Decode, Prefill, trace_inputs, used_weights
from g3n_compiler.models.embedding_tables import EmbeddingTables, embedding_weights
from g3n_compiler.models.gemma3n.text_config import gemma3n_config
from g3n_compiler.source import Source
from g3n_compiler.verify.checks import EXACT, Check, relative_error
from g3n_compiler.verify.onnx.export import OnnxSession, PerLayerEmbedding, TokenEmbedding, export_onnx

CHUNK = 32
MASKED = -1e9
RUNTIME = "onnxruntime"
NEXT = "next_kv_cache_"
"""Outputs need names that differ from the inputs they replace."""


def onnx_checks(source: Source, ids: Sequence[int], expected: np.ndarray) -> list[Check]:
    """Run a prompt through ``prefill`` in padded chunks, the last tokens through ``decode``, and both table look-ups.

    Args:
        ids: golden token ids, longer than the sliding window.
        expected: eager float32 logits ``[T, vocab]`` for the same ids.
    """
    with tempfile.TemporaryDirectory() as folder:
        model = _OnnxDecoder(source, len(ids), Path(folder))
        prompt = len(ids) - 3
        model.prefill(ids[:prompt])
        logits = np.concatenate([model.decode(i, ids[i]) for i in range(prompt, len(ids))])
        error = relative_error(logits, expected[prompt:])
        what = f"{prompt} tokens prefilled, {len(ids) - prompt} decoded"
        checks = [Check(what, "core", RUNTIME, "eager fp32", "relative error", error, EXACT)]
        return checks + _table_checks(source, ids, Path(folder))


def _table_checks(source: Source, ids: Sequence[int], folder: Path) -> list[Check]:
    config = gemma3n_config(source.text).whole
    specs, tables = embedding_weights(config), EmbeddingTables(config, source.read)
    probe = [0, config.ple_vocab_size - 1, config.vocab_size - 1, *ids]
    token_ids = np.array(probe, np.int64)
    checks = []
    for name, spec, module, expected in (
        ("token_embedding", specs["embed_tokens"], TokenEmbedding(config), tables.embeddings(probe)),
        ("per_layer_embedding", specs["embed_tokens_per_layer"], PerLayerEmbedding(config), tables.ple(probe)),
    ):
        table = source.read(spec)
        path = folder / f"{name}.onnx"
        export_onnx(module, {"token_ids": torch.from_numpy(token_ids), "table": table}, ["embeddings"], path)
        got = OnnxSession(path)({"token_ids": token_ids, "table": table.numpy()})["embeddings"]
        error = relative_error(got.reshape(len(probe), -1), expected.numpy().reshape(len(probe), -1))
        checks.append(Check(f"{len(probe)} rows", name, RUNTIME, "eager fp32", "relative error", error, EXACT))
    return checks


class _OnnxDecoder:
    """The prefill and decode signatures in onnxruntime, with float32 weights as inputs."""

    def __init__(self, source: Source, context: int, folder: Path) -> None:
        config = gemma3n_config(source.text)
        self._config, self._context = config, context
        self._tables = EmbeddingTables(config, source.read)
        names = [f"{NEXT}{kind}_{i}" for i in range(config.num_kv_layers) for kind in "kv"]
        self._cache = {f"kv_cache_{n}": np.zeros(s, np.float32) for n, s in kv_cache_shapes(config, context).items()}
        self._weights: dict[str, np.ndarray] = {}
        self._sessions: dict[str, OnnxSession] = {}
        for name, module, length, outputs in (
            ("prefill", Prefill(config, TorchOps()), CHUNK, names),
            (DECODE, Decode(config, TorchOps()), 1, [*names, "logits"]),
        ):
            specs = used_weights(module, context, length)
            path = folder / f"{name}.onnx"
            export_onnx(module.eval(), trace_inputs(module, context, length), outputs, path)
            self._sessions[name] = OnnxSession(path)
            self._weights |= {s.input_name: source.read(s).numpy() for s in specs.values()}

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

"""A model of two tiny layers of zeros under a checkpoint's own tokenizer and template, to see the engine's prompts.

The engine renders a prompt and reads its tokens without the model, so the prompts of a checkpoint of any size are seen
in a second, before anything is traced. The model's files lie beside this module; :func:`make_stand_in` makes them.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from g3n_compiler.lower.litert.container import SectionKind, write_litertlm
from g3n_compiler.lower.litert.metadata import executor_metadata
from g3n_compiler.models.gemma3n.text_config import TextConfig, parse_text_config
from g3n_compiler.models.weights import WeightSpec
from g3n_runtime.litert.engine import LiteRtEngine

CONTEXT = 32
FOLDER = Path(__file__).parent / "stand_in_model"
FILES: dict[SectionKind, str] = {
    "prefill_decode": "decoder.tflite",
    "embedder": "embedder.tflite",
    "per_layer_embedder": "per_layer_embedder.tflite",
}
_SHAPE = {
    "model_type": "gemma3n_text",
    "vocab_size": 32,
    "vocab_size_per_layer_input": 32,
    "hidden_size": 16,
    "intermediate_size": 16,
    "hidden_size_per_layer_input": 8,
    "num_hidden_layers": 2,
    "num_kv_shared_layers": 0,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "laurel_rank": 4,
    "altup_num_inputs": 2,
    "sliding_window": 16,
    "max_position_embeddings": CONTEXT,
    "layer_types": ["sliding_attention", "full_attention"],
    "activation_sparsity_pattern": [0.0, 0.0],
    "bos_token_id": 2,
    "eos_token_id": 1,
    "pad_token_id": 0,
}


def stand_in_config() -> TextConfig:
    """The shape of the stand-in model."""
    return parse_text_config(_SHAPE)


@contextmanager
def stand_in(tokenizer: bytes, llm: bytes) -> Iterator[LiteRtEngine]:
    """The engine over the stand-in model.

    Args:
        tokenizer: a SentencePiece model.
        llm: the bundle's metadata, for a context of :data:`CONTEXT`.
    """
    with tempfile.TemporaryDirectory(prefix="g3n-prompts-") as folder:
        path = Path(folder) / "stand_in.litertlm"
        models = {kind: FOLDER / name for kind, name in FILES.items()}
        write_litertlm(path, models, tokenizer, llm, executor_metadata(stand_in_config(), CONTEXT))
        with LiteRtEngine(path, threads=1) as engine:
            yield engine


def make_stand_in(folder: Path) -> None:
    """Write the stand-in model's files to ``folder``; the same pinned packages write the same bytes."""
    from g3n_compiler.lower.litert.bind_weights import bind
    from g3n_compiler.lower.litert.tables import write_ple_embedder, write_token_embedder
    from g3n_compiler.lower.litert.text import convert
    from g3n_compiler.models.registry import text_weights
    from g3n_compiler.quantize.recipe import get_recipe

    config, recipe = stand_in_config(), get_recipe("fp32")
    write_token_embedder(config, recipe, _zeros, folder / FILES["embedder"])
    write_ple_embedder(config, recipe, _zeros, folder / FILES["per_layer_embedder"])
    graph = convert(config, CONTEXT, [CONTEXT // 2])
    bind(graph, text_weights(config), recipe, _zeros, folder / FILES["prefill_decode"])


def _zeros(spec: WeightSpec, rows: tuple[int, int] | None = None) -> Tensor:
    shape = spec.shape if rows is None else (rows[1] - rows[0], *spec.shape[1:])
    return torch.zeros(shape)

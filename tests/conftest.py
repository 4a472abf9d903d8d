"""Shared fixtures: tiny random checkpoints in the hub's format, of many shapes, with their ``transformers`` model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from xdist.scheduler import LoadScopeScheduling

from g3n_compiler.source import Source
from g3n_compiler.verify import held

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch.set_num_threads(1)  # matrices are tiny: a second thread only waits

TINY: dict[str, Any] = {
    "vocab_size": 4352,
    "vocab_size_per_layer_input": 4096,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 10,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "hidden_size_per_layer_input": 16,
    "laurel_rank": 8,
    "sliding_window": 16,
    "num_kv_shared_layers": 5,
    "max_position_embeddings": 512,
    "activation_sparsity_pattern": [0.95] * 3 + [0.0] * 7,
    "eos_token_id": [1, 106],
}


class TinyModel(NamedTuple):
    """A random model as ``transformers`` has it, and the checkpoint folder it was saved to."""

    hf: Any
    directory: Path

    def open(self) -> Source:
        return Source.open(self.directory)


def make_tiny(directory: Path, seed: int = 0, shards: str = "1GB", **overrides: Any) -> TinyModel:
    """Save a random text checkpoint whose norms, scales and AltUp coefficients are far from their trivial init."""
    from transformers import Gemma3nForCausalLM, Gemma3nTextConfig

    torch.manual_seed(seed)
    config = Gemma3nTextConfig(**{**TINY, **overrides})
    config._attn_implementation = "eager"
    model = Gemma3nForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1 + (1.0 if "correct_output_scale" in name else 0.0))
            elif "coefs" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
            elif "embed" not in name:
                parameter.mul_(2.5)
        model.model.norm.weight.mul_(10)  # logits large enough for the softcap to matter
    model.save_pretrained(directory, max_shard_size=shards)
    copy_tokenizer(directory)
    return TinyModel(model, directory)


def ids_of(length: int, vocab: int, seed: int = 1) -> list[int]:
    """Random ids below ``vocab``."""
    return torch.randint(0, vocab, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def copy_tokenizer(directory: Path) -> None:
    """Give ``directory`` nano's tokenizer, whose vocabulary tiny models share."""
    from g3n_compiler.nano import checkpoint_dir

    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja"):
        (directory / name).write_bytes((checkpoint_dir() / name).read_bytes())


class FolderScheduling(LoadScopeScheduling):
    """Keep a folder's tests on one worker, so that what they compile is compiled once; of some folders each file's."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        folder = file.rpartition("/")[0]
        return file if folder in SPLIT or file in ALONE else folder


SPLIT = ("tests", "tests/nano", "tests/bundle", "tests/cli", "tests/checkpoint", "tests/runtime")
"""Folders whose files share nothing that is costly to make."""
ALONE = ("tests/e2e/test_calibrated.py", "tests/e2e/test_real_tokenizer.py", "tests/e2e/test_slice.py")
"""Files that compile bundles of their own, for which no other waits."""
LONGEST = ("tests/e2e", "tests/executorch", "tests/litert", "tests/vision", "tests/elastic", "tests/gpu", "tests/nano")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest folders first: begun last, they would keep the other workers waiting."""

    def rank(item: pytest.Item) -> int:
        folder = item.nodeid.split("::", 1)[0].rpartition("/")[0]
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FolderScheduling:
    return FolderScheduling(config, log)


@pytest.fixture(scope="session", autouse=True)
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the tests let engines keep does not go into the user's cache."""
    folder = tmp_path_factory.mktemp("cache") / "g3n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("G3N_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session", autouse=True)
def few_held_texts() -> Iterator[None]:
    """What rounding costs a random model is measured on a line of text: the figures have tests of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held, "OWN_TOKENS", 32)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def tiny_copy(tiny: TinyModel, tmp_path: Path) -> Path:
    """A private copy of the tiny checkpoint, to be broken."""
    target = tmp_path / "checkpoint"
    target.mkdir()
    for path in tiny.directory.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


@pytest.fixture
def edit_json() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """Change a JSON file in place."""

    def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
        value = json.loads(path.read_text(encoding="utf-8"))
        change(value)
        path.write_text(json.dumps(value), encoding="utf-8")

    return edit


@pytest.fixture(scope="session")
def ids() -> Callable[[int], list[int]]:
    """``n`` token ids drawn from the whole vocabulary, bos first; some are past the end of the per-layer table."""

    def draw(n: int) -> list[int]:
        generator = torch.Generator().manual_seed(1)
        return [2, *torch.randint(0, TINY["vocab_size"], (n - 1,), generator=generator).tolist()]

    return draw

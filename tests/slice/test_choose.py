"""Published configurations, budgets and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from g3n_compiler.errors import SliceError
from g3n_compiler.models.gemma3n.published import published_slices
from g3n_compiler.models.gemma3n.text_config import TextConfig
from g3n_compiler.models.published import PublishedSlice
from g3n_compiler.models.registry import core_parameter_count, parameter_count
from g3n_compiler.models.shape import LayerType
from g3n_compiler.slice.choose import Choice, SliceOptions, choose_slice
from g3n_compiler.slice.plan import plan_slice

FULL: LayerType = "full_attention"
SLIDING: LayerType = "sliding_attention"


def true_config(layers: int, ffn: int, shared: int) -> TextConfig:
    """The shape of E2B or E4B."""
    return TextConfig(
        hidden_size=2048, num_layers=layers, num_heads=8, num_kv_heads=2, head_dim=256, ffn_dims=(ffn,) * layers,
        layer_types=tuple(FULL if (i + 1) % 5 == 0 else SLIDING for i in range(layers)),
        sparsity=(0.95,) * 10 + (0.0,) * (layers - 10), num_kv_shared_layers=shared, sliding_window=512,
        vocab_size=262400, ple_vocab_size=262144, ple_dim=256, laurel_rank=64, altup_num_inputs=4, altup_active_idx=0,
        altup_correct_scale=True, rms_norm_eps=1e-6, rope_theta_full=1e6, rope_theta_sliding=1e4,
        final_logit_softcap=30.0, max_context=32768, bos_id=2, pad_id=0, eos_ids=(1, 106),
    )  # fmt: skip


E4B = true_config(35, 16384, 15)
E2B = true_config(30, 8192, 10)


def choose(size: str = "custom", config: TextConfig = E4B, **options: object) -> Choice | None:
    return choose_slice(size, SliceOptions(**options), config, core_parameter_count)  # type: ignore[arg-type]


def test_true_sizes_have_the_published_parameters() -> None:
    assert (core_parameter_count(E2B), parameter_count(E2B)) == (1_905_495_648, 4_456_156_768)
    assert (core_parameter_count(E4B), parameter_count(E4B)) == (3_980_491_248, 6_866_696_688)


@pytest.mark.parametrize("row", published_slices().values(), ids=list(published_slices()))
def test_published_configurations_have_their_parameters(row: PublishedSlice) -> None:
    config = plan_slice(E4B, row.skipped, row.ffn_dims).apply(E4B)
    assert abs(core_parameter_count(config) / 1e9 - row.effective_params_b) < 0.02


def test_there_are_sixteen() -> None:
    assert len(published_slices()) == 16


def test_e2b_is_a_slice_of_e4b_and_itself_whole() -> None:
    choice = choose("e2b")
    assert choice is not None and choice.plan.apply(E4B) == E2B
    assert choose("e2b", E2B) is None and choose("e4b") is None and choose() is None


def test_the_best_that_fits_is_chosen_and_explained() -> None:
    choice = choose(params="2.5b")
    assert choice is not None and choice.size == "e2.49b-block" and "54.5%" in choice.why
    ties = choose(params="5b")
    assert ties is not None and ties.size == "e3.59b-layer"  # as good as e3.79b-layer, and smaller


@pytest.mark.parametrize(
    ("size", "config", "options", "found"),
    [
        ("custom", E4B, {"params": "1.8b"}, "nothing fits --params 1.8b: the smallest, e2b, takes 1.91b"),
        ("custom", E4B, {"budget": "1"}, "'1' is not understood: expected a number and gb"),
        ("custom", E4B, {"params": "2.5GB"}, "expected a number and b or m"),
        ("custom", E4B, {"params": "9" * 400 + "b"}, "expected a number and b or m"),
        ("custom", E4B, {"params": "2b", "budget": "2GB"}, "--budget and --params each choose a slice"),
        ("e2b", E4B, {"skip_layers": (20,)}, "--size e2b and --skip-layers or --ffn-dims each choose"),
        ("custom", E4B, {"skip_layers": (18,)}, "layer 18 cannot be skipped"),
        ("custom", E4B, {"skip_layers": (19,)}, "layer 19 cannot be skipped"),
        ("custom", E2B, {"ffn_dims": (4096,)}, "the checkpoint has E2B's shape"),
        ("e2.54b-layer", E2B, {}, "names a published slice of E4B"),
        ("custom", replace(E4B, ffn_dims=(512,) * 35), {"params": "2b"}, "names a published slice of E4B"),
    ],
)  # fmt: skip
def test_refused(size: str, config: TextConfig, options: dict[str, object], found: str) -> None:
    with pytest.raises(SliceError, match=found):
        choose(size, config, **options)

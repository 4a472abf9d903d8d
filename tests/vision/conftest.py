"""Random vision towers and a random multimodal checkpoint, as ``transformers`` has them and as ours reads them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from g3n_compiler.lower.artifact import Lowered
from g3n_compiler.lower.job import Job
from g3n_compiler.models.gemma3n.vision import VisionEncoder
from g3n_compiler.models.gemma3n.vision_layout import VisionLayout, read_layout
from g3n_compiler.models.gemma3n.vision_weights import encoder_weights
from g3n_compiler.models.weights import TensorWeights
from g3n_compiler.source import Source
from tests.conftest import TINY, copy_tokenizer
from tests.jobs import make_job

STAGES = [
    ["er_r1_k3_s2_e4_c128", "er_r1_k3_s1_e4_c128"],
    ["uir_r1_a3_k5_s2_e6_c256", "uir_r1_a5_k0_s1_e4_c256"],
    ["uir_r1_a5_k5_s2_e6_c640", "mqa_r1_k3_h12_v2_s1_d64_c640", "uir_r1_a0_k0_s1_e2_c640"],
    ["uir_r1_a5_k5_s2_e6_c1280", "mqa_r1_k3_h16_s1_d96_c1280", "uir_r1_a0_k0_s1_e2_c1280"],
]
"""Every kind of block of the true encoder, in its order."""
AUDIO = {
    "hidden_size": 32,
    "conf_num_hidden_layers": 1,
    "conf_num_attention_heads": 4,
    "sscp_conv_channel_size": [8, 4],
}


class Multimodal(NamedTuple):
    """A random model with towers as ``transformers`` has it, and the checkpoint folder it was saved to."""

    hf: Any
    directory: Path

    def open(self) -> Source:
        return Source.open(self.directory)


def small_arguments(stages: list[list[str]] = STAGES) -> dict[str, Any]:
    """``vision_config.model_args`` of a small encoder; timm changes what it is given, so every call makes new ones."""
    from timm.models._efficientnet_builder import decode_arch_def

    return {"channel_multiplier": 0.125, "block_args": decode_arch_def(stages)}


def spread(module: torch.nn.Module) -> None:
    """Move norms and scales far from their trivial init: default layer scales of 1e-5 hide what a block computes."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith("gamma"):
                parameter.normal_(0.5, 0.1)
            elif name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)


def make_multimodal(directory: Path, seed: int = 0, stages: list[list[str]] = STAGES, **text: Any) -> Multimodal:
    """Save a random checkpoint with both towers, whose hard ids are nano's."""
    from transformers import Gemma3nConfig, Gemma3nForConditionalGeneration

    torch.manual_seed(seed)
    config = Gemma3nConfig(
        text_config={**TINY, **text},
        vision_config={"model_args": small_arguments(stages), "vocab_offset": 4096},
        audio_config={**AUDIO, "vocab_offset": 4224},
        boi_token_id=4094,
        boa_token_id=4095,
        eoi_token_id=4096,
        image_token_id=4097,
        eoa_token_id=4224,
        audio_token_id=4225,
    )
    config.text_config._attn_implementation = "eager"
    model = Gemma3nForConditionalGeneration(config).float().eval()
    spread(model)
    with torch.no_grad():
        for name, parameter in model.model.language_model.named_parameters():
            if "coefs" in name:
                parameter.normal_(0, 0.2)
            elif "correct_output_scale" in name:
                parameter.add_(1.0)
            elif parameter.dim() > 1 and "embed" not in name:
                parameter.mul_(2.5)
        model.model.language_model.norm.weight.mul_(10)  # logits large enough for the softcap to matter
    model.config.vision_config.model_args = small_arguments(stages)
    model.config.eos_token_id = [1, 106]
    model.save_pretrained(directory)
    copy_tokenizer(directory)
    processor = {"do_normalize": False, "do_resize": True, "resample": 2, "size": {"height": 256, "width": 256}}
    (directory / "preprocessor_config.json").write_text(json.dumps(processor), encoding="utf-8")
    return Multimodal(model, directory)


def reference_features(tower: Any, image: Tensor) -> Tensor:
    """``[1, T, width]`` of ``image [1, S, S, 3]``, before the embedder, as ``get_image_features`` has it."""
    with torch.no_grad():
        out = tower(image.permute(0, 3, 1, 2))
    return out.flatten(2).permute(0, 2, 1) * out.shape[1] ** 0.5


def encoder_of(tower: Any, layout: VisionLayout) -> VisionEncoder:
    """Our encoder over the tensors of timm's ``tower``."""
    tensors = tower.state_dict()

    def read(name: str, axes: tuple[int, ...] | None, shape: tuple[int, ...]) -> Tensor:
        value = tensors[name.removeprefix("vision_tower.timm_model.")]
        return (value if axes is None else value.permute(axes)).reshape(shape)

    specs = encoder_weights(layout)
    return VisionEncoder(layout, TensorWeights({n: read(s.tensor, s.axes, s.shape) for n, s in specs.items()}))


def relative(actual: Tensor, expected: Tensor) -> float:
    """Largest over positions of ``max|actual - expected| / max|expected|``."""
    return float(((actual - expected).abs().amax(-1) / expected.abs().amax(-1)).max())


@pytest.fixture(scope="session")
def multimodal(tmp_path_factory: pytest.TempPathFactory) -> Multimodal:
    return make_multimodal(tmp_path_factory.mktemp("multimodal"))


@pytest.fixture(scope="session")
def layout(multimodal: Multimodal) -> VisionLayout:
    vision = multimodal.open().vision
    assert vision is not None
    return read_layout(vision)


def random_image(side: int, seed: int = 0) -> Tensor:
    return torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class LoweredVision:
    """A job with text and vision, lowered to a ``.litertlm`` in its folder, and what the backend says it made."""

    job: Job
    lowered: Lowered
    encoder_graph: bytes

    @property
    def path(self) -> Path:
        return self.job.directory / "model.litertlm"


SIDES = (256, 512)
CONTEXT = 640


@pytest.fixture(scope="session")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> LoweredVision:
    """A small bundle in float32; five layers, the last two of which share the others' caches."""
    from g3n_compiler.lower.litert import vision
    from g3n_compiler.lower.litert.backend import LiteRtBackend

    folder = tmp_path_factory.mktemp("vision-bundle")
    model = make_multimodal(
        folder / "checkpoint",
        num_hidden_layers=5,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention", "sliding_attention"],
        activation_sparsity_pattern=[0.95, 0.95, 0.0, 0.0, 0.0],
        max_position_embeddings=1024,
    )
    source = Source.open(model.directory, modalities=("text", "vision"))
    assert source.vision is not None
    graph = vision.convert_encoder(read_layout(source.vision), SIDES)
    job = make_job(source, folder, context=CONTEXT, prefill_lengths=(128,), resolutions=SIDES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vision, "convert_encoder", lambda *_: graph)
        return LoweredVision(job, LiteRtBackend().lower(job), graph)

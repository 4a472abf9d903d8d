"""nano's towers: the real towers' block types at a small width, combined with the text model in one checkpoint."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import click
import torch
from safetensors.torch import load_file, save_file
from timm.models._efficientnet_builder import decode_arch_def
from torch import Tensor, nn
from transformers import AutoTokenizer, Gemma3nConfig, Gemma3nForConditionalGeneration, Gemma3nProcessor
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nAudioConfig, Gemma3nVisionConfig
from transformers.models.gemma3n.feature_extraction_gemma3n import Gemma3nAudioFeatureExtractor
from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor

from g3n_compiler.nano import checkpoint_dir
from nano_training import tokenizer
from nano_training.config import full_config

IMAGE_SIZE = 256
"""Pixels per side that the checkpoint's image processor resizes to."""

_CHANNEL_MULTIPLIER = 0.1
_STEM_CHANNELS = 16
_GAMMA = 0.5
"""Initial value of the layer scales; with timm's 1e-5 every block would stay idle in a short training."""

_STAGES = (
    ("er_r1_k3_s2_e4_c128", "er_r1_k3_s1_e4_c128"),
    ("uir_r1_a3_k5_s2_e6_c256", "uir_r1_a5_k0_s1_e4_c256", "uir_r1_a3_k0_s1_e4_c256"),
    (
        "uir_r1_a5_k5_s2_e6_c640",
        "uir_r1_a5_k0_s1_e4_c640",
        "uir_r1_a0_k0_s1_e1_c640",
        "mqa_r1_k3_h4_v2_s1_d16_c640",
        "uir_r1_a0_k0_s1_e2_c640",
    ),
    (
        "uir_r1_a5_k5_s2_e6_c1280",
        "mqa_r1_k3_h4_s1_d24_c1280",
        "uir_r1_a0_k0_s1_e2_c1280",
    ),
)
"""One example of every kind of block in each stage of ``mobilenetv5_300m_enc``."""

_OLD_PREFIX, _NEW_PREFIX = "model.", "model.language_model."


def vision_config() -> Gemma3nVisionConfig:
    """A narrow, shallow ``mobilenetv5_300m_enc`` with 2048 channels out of its fusion adapter, as in the real one."""
    # decoded anew each time: timm modifies its block arguments while it builds
    blocks = decode_arch_def([list(stage) for stage in _STAGES])
    arguments = {"channel_multiplier": _CHANNEL_MULTIPLIER, "stem_size": _STEM_CHANNELS, "block_args": blocks}
    return Gemma3nVisionConfig(model_args=arguments, vocab_offset=tokenizer.VISION_ID)


def audio_config() -> Gemma3nAudioConfig:
    """A conformer with 3 layers of 64; chunk, contexts, reduction and kernels are the real one's."""
    return Gemma3nAudioConfig(
        hidden_size=64,
        conf_num_hidden_layers=3,
        conf_num_attention_heads=4,
        sscp_conv_channel_size=[24, 12],
        vocab_offset=tokenizer.AUDIO_ID,
    )


def multimodal_config() -> Gemma3nConfig:
    """The configuration of the whole checkpoint."""
    config = Gemma3nConfig(
        architectures=["Gemma3nForConditionalGeneration"],
        text_config=full_config(),
        vision_config=vision_config(),
        audio_config=audio_config(),
        boi_token_id=tokenizer.BOI_ID,
        boa_token_id=tokenizer.BOA_ID,
        eoi_token_id=tokenizer.VISION_ID,
        image_token_id=tokenizer.VISION_ID + 1,
        eoa_token_id=tokenizer.AUDIO_ID,
        audio_token_id=tokenizer.AUDIO_ID + 1,
    )
    config.eos_token_id = [tokenizer.EOS_ID, tokenizer.END_OF_TURN_ID]
    return config


def text_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The text tensors of a text-only or multimodal ``checkpoint`` by their multimodal names, including dead ones."""
    tensors = load_file(checkpoint / "model.safetensors")
    if any(name.startswith(_NEW_PREFIX) for name in tensors):
        return {name: t for name, t in tensors.items() if name.startswith(_NEW_PREFIX)}
    return {_NEW_PREFIX + name.removeprefix(_OLD_PREFIX): t for name, t in tensors.items()}


def build(text: Mapping[str, Tensor], seed: int = 0) -> Gemma3nForConditionalGeneration:
    """The model in fp32 with the text weights ``text`` (multimodal names) and freshly initialised towers."""
    torch.manual_seed(seed)
    model = Gemma3nForConditionalGeneration._from_config(
        multimodal_config(), dtype=torch.float32, attn_implementation="eager"
    )
    initialize(model)
    missing, _ = model.load_state_dict({name: t.float() for name, t in text.items()}, strict=False)
    if lacking := [name for name in missing if name.startswith(_NEW_PREFIX)]:
        raise ValueError(f"{len(lacking)} text weights are missing, for example {lacking[0]}")
    return model.eval()


def load(checkpoint: Path) -> Gemma3nForConditionalGeneration:
    """The multimodal ``checkpoint`` in fp32, for training."""
    model = build(text_weights(checkpoint))
    missing, _ = model.load_state_dict(
        {name: t.float() for name, t in load_file(checkpoint / "model.safetensors").items()}, strict=False
    )
    if lacking := [name for name in missing if not name.startswith("lm_head.")]:
        raise ValueError(f"{len(lacking)} weights are missing, for example {lacking[0]}")
    return model


def initialize(model: Gemma3nForConditionalGeneration) -> None:
    """Initialise the towers and embedders (the text model keeps its own weights).

    Every matrix and kernel preserves the variance of its input. The library's 0.02 is so small compared with the norm
    after each kernel that a usual training step reverses its direction.
    """
    with torch.no_grad():
        for name, weight in model.model.vision_tower.named_parameters():
            if name.endswith("gamma"):
                weight.fill_(_GAMMA)
        inner = model.model
        for part in (inner.vision_tower, inner.audio_tower, inner.embed_audio, inner.embed_vision):
            for weight in part.parameters():
                if weight.dim() >= 2:
                    nn.init.normal_(weight, std=weight[0].numel() ** -0.5)


def save_processor(folder: Path) -> None:
    """Write ``processor_config.json`` for the tokenizer in ``folder``: how images and sound are prepared."""
    auto = AutoTokenizer.from_pretrained(folder)
    images = SiglipImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, do_normalize=False, do_convert_rgb=True
    )
    processor = Gemma3nProcessor(Gemma3nAudioFeatureExtractor(), images, auto, chat_template=auto.chat_template)
    beside = folder / ".processor"
    processor.save_pretrained(beside)
    # the other files are the tokenizer's and stay unchanged
    shutil.move(beside / "processor_config.json", folder / "processor_config.json")
    shutil.rmtree(beside)


def export(model: Gemma3nForConditionalGeneration, text_from: Path, out: Path) -> None:
    """Write a complete checkpoint folder: ``model`` in bf16, and the tokenizer files of ``text_from`` byte for byte.

    Text tensors of ``text_from`` that nothing reads and that ``model`` lacks are copied byte for byte as well.
    """
    out.mkdir(parents=True, exist_ok=True)
    own = {name: t for name, t in model.state_dict().items() if not name.startswith("lm_head.")}
    stored = {name: tensor.detach().to(torch.bfloat16).contiguous() for name, tensor in own.items()}
    tensors = {**text_weights(text_from), **stored}
    save_file(dict(sorted(tensors.items())), out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # the writer makes it readable by its owner only
    config = multimodal_config()
    config.dtype = torch.bfloat16
    config.save_pretrained(out)
    kept = ("chat_template.jinja", "generation_config.json", "tokenizer.json", "tokenizer.model")
    for name in (*kept, "tokenizer_config.json"):
        if text_from != out:
            shutil.copyfile(text_from / name, out / name)
    save_processor(out)


@click.command()
@click.argument("out", type=click.Path(path_type=Path))
def main(out: Path) -> None:
    """Write nano with untrained towers to OUT, to test compiling a checkpoint of that shape."""
    export(build(text_weights(checkpoint_dir())), checkpoint_dir(), out)


if __name__ == "__main__":
    main()

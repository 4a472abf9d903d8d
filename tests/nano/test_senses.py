"""nano's towers in training: equal to the library's model and processor, and lessons that can be repeated."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoProcessor, Gemma3nForConditionalGeneration

from g3n_compiler.nano import checkpoint_dir
from nano_training import towers
from nano_training.heads import Heads, caption_classes
from nano_training.lessons import SPEECH_QUESTIONS, Sound, SpeechLessons, bent, disturb, picture_batch, to_pixels
from nano_training.mix_text import mix
from nano_training.pictures import COLOURS, SHAPES, DigitSet, draw_scene
from nano_training.senses import Layout, Prompts, Senses
from nano_training.voices import LONGEST, WORDS, heldout_voices, phrases, resample, training_voices, trim

TOLERANCE = 2e-4


@pytest.fixture(scope="module")
def model() -> Gemma3nForConditionalGeneration:
    return towers.build(towers.text_weights(checkpoint_dir()), seed=3)


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts(checkpoint_dir() / "tokenizer.json")


@pytest.fixture(scope="module")
def folder(model: Gemma3nForConditionalGeneration, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("senses") / "checkpoint"
    towers.export(model, checkpoint_dir(), out)
    return out


@pytest.fixture(scope="module")
def digits() -> DigitSet:
    strokes = np.zeros((4, 28, 28), np.uint8)
    strokes[:, 6:22, 12:16] = 255
    return DigitSet(strokes, np.array([1, 1, 7, 7]))


def test_image_logits_are_the_library_models(model: Any, prompts: Prompts) -> None:
    pixels = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))
    senses = Senses(model)
    prompt = prompts.prompt(Layout("What digit is this?"), "image", 256)
    ids, targets = prompts.rows(prompt, ["7", "A red star on white."], 9)
    with torch.no_grad():
        ours = senses.logits(ids, senses.see(pixels), "image", len(prompt) - 1, 9)
        theirs = model(input_ids=ids, pixel_values=pixels).logits[:, len(prompt) - 1 :]
    assert (ours - theirs).abs().max() < TOLERANCE
    assert targets[0].tolist()[1:] == [106] + [-100] * 7


def test_audio_logits_are_the_library_models(model: Any, prompts: Prompts) -> None:
    mel = torch.randn(2, 200, 128, generator=torch.Generator().manual_seed(0))
    valid = torch.ones(2, 200, dtype=torch.bool)
    valid[1, 120:] = False
    senses = Senses(model)
    prompt = prompts.prompt(Layout("Transcribe."), "audio", 188)
    ids, _ = prompts.rows(prompt, ["seven red left", "no"], 6)
    with torch.no_grad():
        padded = senses.pad_sound(*senses.hear(mel, valid), 188)
        ours = senses.logits(ids, padded, "audio", len(prompt) - 1, 6)
        theirs = model(input_ids=ids, input_features=mel, input_features_mask=valid).logits[:, len(prompt) - 1 :]
    assert (ours - theirs).abs().max() < TOLERANCE


def test_prompts_are_the_processors(folder: Path, prompts: Prompts) -> None:
    processor = AutoProcessor.from_pretrained(folder)
    for modality, given in (
        ("image", {"images": [Image.new("RGB", (90, 60), (200, 30, 30))]}),
        ("audio", {"audio": [np.zeros(8000, np.float32)]}),
    ):
        content = [{"type": modality}, {"type": "text", "text": "What is it?"}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        made = processor(text=text.removeprefix("<bos>"), return_tensors="pt", **given)["input_ids"][0].tolist()
        soft = 256 if modality == "image" else 188
        assert prompts.prompt(Layout("What is it?"), modality, soft) == made  # type: ignore[arg-type]


def test_pixels_are_the_processors(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (61, 83, 3), np.uint8)
    processor = AutoProcessor.from_pretrained(folder)
    theirs = processor.image_processor(Image.fromarray(noise), return_tensors="pt")["pixel_values"][0]
    ours = to_pixels(Image.fromarray(noise), towers.IMAGE_SIZE)
    # one may round each channel to a byte where the other does not
    assert (ours - theirs).abs().max() < 2.1 / 255


def test_export_keeps_the_text_bytes(folder: Path) -> None:
    before, after = towers.text_weights(checkpoint_dir()), load_file(folder / "model.safetensors")
    assert before.keys() == {name for name in after if name.startswith("model.language_model.")}
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name


def test_a_mixed_text_model_lies_between(folder: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(folder, changed)
    tensors = load_file(changed / "model.safetensors")
    name, tower = "model.language_model.norm.weight", "model.embed_vision.hard_embedding_norm.weight"
    tensors[name] = tensors[name] + 2
    tensors[tower] = tensors[tower] + 2
    save_file(tensors, changed / "model.safetensors", metadata={"format": "pt"})
    mix(folder, changed, tmp_path / "mixed", 0.25)
    before, after = load_file(folder / "model.safetensors"), load_file(tmp_path / "mixed" / "model.safetensors")
    assert (after[name].float() - before[name].float() - 0.5).abs().max() < 0.02
    assert torch.equal(after[tower], tensors[tower])
    assert (tmp_path / "mixed" / "processor_config.json").exists()


def test_export_is_complete(folder: Path, model: Any) -> None:
    loaded, report = Gemma3nForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not report["missing_keys"] and not report["mismatched_keys"]
    name = "model.audio_tower.conformer.2.attention.post.weight"
    assert torch.equal(loaded.state_dict()[name], model.state_dict()[name].bfloat16().float())


def test_small_pictures_give_the_tokens_before_they_are_enlarged(model: Any) -> None:
    pixels = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    senses = Senses(model)
    with torch.no_grad():
        small = senses.see(pixels)
        whole = senses.see(torch.nn.functional.interpolate(pixels, scale_factor=2))
    assert small.shape[1] == 64
    assert whole.shape[1] == 256


def test_captions_are_classes() -> None:
    assert caption_classes("7") == [7, -100, -100, -100]
    colour, shape, paper = caption_classes("An orange ring on blue.")[1:]
    assert (sorted(COLOURS)[colour], SHAPES[shape], sorted(COLOURS)[paper]) == ("orange", "ring", "blue")


def test_pictures_repeat_and_fill_the_input(digits: DigitSet) -> None:
    def batch() -> Tensor:
        return picture_batch(digits, Random(5), 6, 64, (0.3, 0.8), 0.5).pixels

    assert batch().shape == (6, 3, 64, 64)
    assert torch.equal(batch(), batch())
    captions = {draw_scene(Random(i), 64, (0.3, 0.5)).caption for i in range(300)}
    assert len(captions) > 150


def test_heldout_voices_are_not_trained_on() -> None:
    def speaker(key: str) -> str:
        return ":".join(key.split(":")[:2])

    heard = {speaker(voice.key) for voice in training_voices()}
    assert heard.isdisjoint(speaker(voice.key) for voice in heldout_voices())
    assert len({voice.key for voice in training_voices()}) == len(training_voices())


def test_phrases_repeat_and_say_every_word() -> None:
    voice = training_voices()[0]
    said = list(phrases(voice, 20))
    assert said == list(phrases(voice, 20))
    assert [words[0] for words in said[: len(WORDS)]] == list(WORDS)
    assert all(2 <= len(words) <= LONGEST for words in said[len(WORDS) :])


def test_sound_is_trimmed_resampled_and_disturbed() -> None:
    tone = np.sin(np.arange(8000) * 2 * np.pi * 440 / 16000).astype(np.float32)
    quiet = np.pad(tone, 4000)
    assert 8000 <= len(trim(quiet)) <= 8000 + 2 * 480
    half = resample(tone, 0.5)
    assert len(half) == 4000
    peak = np.abs(np.fft.rfft(half)).argmax() * 8000 / len(half)
    assert peak == pytest.approx(440, abs=4)
    assert np.array_equal(disturb(tone, Random(1)), disturb(tone, Random(1)))


def test_speech_batches_hold_what_fits() -> None:
    sounds = [Sound(torch.ones(40 * (i + 1), 128).half(), ("red",) * (1 + i % 2)) for i in range(6)]
    batch = SpeechLessons(sounds).batch(Random(0), 8, (1, 2), 160)
    assert batch.mel.shape == (8, 160, 128)
    assert batch.valid.sum(1).max() <= 160
    assert {len(said) for said in batch.words} == {1, 2}
    assert (batch.mel.sum(-1) > 0).equal(batch.valid)


def test_bent_sounds_repeat_and_keep_their_shape() -> None:
    mel = torch.arange(128.0).expand(30, 128)
    made = bent(mel, Random(2))
    assert made.shape == mel.shape and made.isfinite().all()
    assert torch.equal(made, bent(mel, Random(2))) and not torch.equal(made, bent(mel, Random(3)))
    assert mel[0, 5] == 5  # the kept sound is not written to
    throats = {round(float(bent(mel, Random(i))[-1, 40]) / 40, 2) for i in range(40)}
    assert min(throats) < 0.95 and max(throats) > 1.05


def test_heads_can_be_right_and_wrong() -> None:
    heads = Heads(len(WORDS) + 1)
    with torch.no_grad():
        heads.words.weight.copy_(torch.eye(len(WORDS) + 1) * 20)
        heads.words.bias.zero_()
    path = torch.nn.functional.one_hot(torch.tensor([[3, 3, 0, 5, 0]]), len(WORDS) + 1).float()
    sounding = torch.ones(1, 5, dtype=torch.bool)
    loss, right = heads.speech_loss(path, sounding, [(WORDS[2], WORDS[4])])
    assert right == 1.0 and loss < 0.01
    assert heads.speech_loss(path, sounding, [(WORDS[2], WORDS[5])])[1] == 0.0
    assert heads.transcribe(path[0]) == [WORDS[2], WORDS[4]]


def test_questions_differ() -> None:
    assert len(set(SPEECH_QUESTIONS)) == len(SPEECH_QUESTIONS)

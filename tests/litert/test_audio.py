"""The audio tower's TFLite models: alone from sound to soft tokens, and in a bundle that the engine hears with."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma3nAudioFeatureExtractor

from g3n_compiler.lower.job import Job
from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.audio import AudioFiles, OpenedAudio, convert_audio, tower_sections, write_audio
from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.lower.litert.container import View, sections, write_litertlm
from g3n_compiler.lower.litert.metadata import executor_metadata, llm_metadata
from g3n_compiler.lower.litert.section import TowerSection
from g3n_compiler.lower.litert.tables import write_ple_embedder, write_token_embedder
from g3n_compiler.lower.litert.towers import media_of
from g3n_compiler.lower.signatures.audio import STREAM
from g3n_compiler.models.gemma3n.audio_mel import LOST, LogMelGraph
from g3n_compiler.models.gemma3n.tower_config import AudioConfig
from g3n_compiler.models.gemma3n.transformers_model import load_hf
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.source import Source
from g3n_compiler.verify.audio import AudioReference, audio_checks
from g3n_compiler.verify.checks import EXACT, Parity, relative_error
from g3n_runtime.chat import GREEDY, Attachments
from g3n_runtime.errors import SoundError
from g3n_runtime.litert.audio import LiteRtClipEncoder, LiteRtStreamEncoder
from g3n_runtime.litert.chat import LiteRtChat
from g3n_runtime.litert.media import MediaFrontEnd
from g3n_runtime.media.mel import LogMel, clip_hops
from tests.audio.conftest import AudioTower, make_audio_tower
from tests.audio.test_mel import voice
from tests.jobs import make_job
from tests.litert.conftest import CONTEXT, PREFILL, Converted

NEAR_FAKE_QUANT = 0.02
"""Two roundings of the same activations may differ by a step where they lie between two."""
CLIP_TOKENS = 24
"""Soft tokens of the longest clip: 3.84 s."""
LONGEST = CLIP_TOKENS * 16 * 160 - 3 * 160


@dataclass(frozen=True)
class AudioBundle:
    """A text model with an audio tower: its checkpoint, the tower as ``transformers`` has it, and what was lowered."""

    converted: Converted
    tower: AudioTower
    source: Source
    graphs: dict[str, bytes]
    folder: Path
    lowered: dict[str, list[TowerSection]]

    @property
    def config(self) -> AudioConfig:
        assert self.source.audio is not None
        return self.source.audio

    def job(self, recipe: str) -> Job:
        folder = self.folder / recipe
        folder.mkdir(exist_ok=True)
        return make_job(self.source, folder, recipe, context=CONTEXT, prefill_lengths=(PREFILL,))

    def parts(self, recipe: str) -> list[TowerSection]:
        """Encoder, adapter and end row of ``recipe``, lowered at the first call."""
        if recipe not in self.lowered:
            self.lowered[recipe] = tower_sections(self.write(recipe, self.job(recipe).directory))
        return self.lowered[recipe]

    def write(self, recipe: str, folder: Path) -> AudioFiles:
        return write_audio(self.graphs, self.config, RECIPES[recipe], self.source.read, folder)

    def clip(self, recipe: str) -> LiteRtClipEncoder:
        encoder, adapter, _ = self.parts(recipe)
        return LiteRtClipEncoder(encoder.path, adapter.path)

    def stream(self, recipe: str) -> LiteRtStreamEncoder:
        encoder = self.parts(recipe)[0]
        path = encoder.path.with_name("stream.tflite")
        path.write_bytes(encoder.path.read_bytes()[encoder.views[STREAM] :])
        return LiteRtStreamEncoder(path)

    def pack(self, recipe: str) -> Path:
        """The ``.litertlm`` of ``recipe``."""
        job, text = self.job(recipe), self.source.text
        path = job.directory / "model.litertlm"
        if path.exists():
            return path
        models: dict[Any, Path] = {
            k: job.directory / f"{k}.tflite" for k in ("prefill_decode", "embedder", "per_layer_embedder")
        }
        bind(self.converted.graph, text_weights(text), job.recipe, self.source.read, models["prefill_decode"])
        write_token_embedder(text, job.recipe, self.source.read, models["embedder"])
        write_ple_embedder(text, job.recipe, self.source.read, models["per_layer_embedder"])
        models |= {part.kind: part.path for part in self.parts(recipe)}
        views = [View(name, part.kind, at) for part in self.parts(recipe) for name, at in part.views.items()]
        tokenizer = job.tokenizer
        llm = llm_metadata(CONTEXT, tokenizer, tokenizer.template.jinja, media_of(job))
        write_litertlm(path, models, tokenizer.sentencepiece, llm, executor_metadata(text, CONTEXT), views)
        return path


@pytest.fixture(scope="session")
def audio_bundle(converted: Converted, tmp_path_factory: pytest.TempPathFactory) -> AudioBundle:
    """The tiny text model of this folder's tests, given an audio tower."""
    folder = tmp_path_factory.mktemp("hearing")
    plain, directory = converted.source.directory, folder / "checkpoint"
    directory.mkdir()
    text = json.loads((plain / "config.json").read_text())
    ids = {"boa_token_id": 4095, "eoa_token_id": 4224, "audio_token_id": 4225}
    tower = make_audio_tower(
        directory,
        {"text_config": text, "audio_soft_tokens_per_image": CLIP_TOKENS, **ids},
        conf_num_hidden_layers=1,
        vocab_offset=4224,
    )
    config = json.loads((directory / "config.json").read_text())
    config["eos_token_id"] = text["eos_token_id"]
    (directory / "config.json").write_text(json.dumps(config))
    tensors = load_file(plain / "model.safetensors") | {f"model.{n}": t.contiguous() for n, t in tower.tensors.items()}
    save_file(tensors, directory / "model.safetensors")
    for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "chat_template.jinja"):
        (directory / name).write_bytes((plain / name).read_bytes())
    source = Source.open(directory)
    assert source.audio is not None
    return AudioBundle(converted, tower, source, convert_audio(source.audio), folder, {})


@torch.no_grad()
def reference(tower: AudioTower, sound: np.ndarray) -> np.ndarray:
    """Soft tokens ``[N, hidden]`` that ``transformers`` makes of ``sound``."""
    inputs = Gemma3nAudioFeatureExtractor()([sound], return_tensors="pt")
    mask = inputs.input_features_mask.float()
    return tower.embedder(inputs_embeds=tower.reference(inputs.input_features, mask))[0].numpy()


@pytest.mark.parametrize("samples", [513, 16000, 16130, 48123, LONGEST])
def test_clip_equals_transformers(samples: int, audio_bundle: AudioBundle) -> None:
    sound = voice(samples)
    assert relative_error(audio_bundle.clip("fp32")(sound), reference(audio_bundle.tower, sound)) < EXACT


@pytest.mark.parametrize("samples", [513, 16000, 16130, 48123, 100000])
def test_stream_equals_transformers(samples: int, audio_bundle: AudioBundle) -> None:
    sound = voice(samples)
    tokens = np.stack(list(audio_bundle.stream("fp32")(iter(np.array_split(sound, 7)))))
    assert relative_error(tokens, reference(audio_bundle.tower, sound)) < EXACT


@pytest.mark.parametrize("form", ["clip", "stream"])
def test_int8_equals_the_fake_quant_reference(form: str, audio_bundle: AudioBundle) -> None:
    sound = voice(48123)
    encode: dict[str, Callable[[], np.ndarray]] = {
        "clip": lambda: audio_bundle.clip("int8")(sound),
        "stream": lambda: np.stack(list(audio_bundle.stream("int8")([sound]))),
    }
    expected = AudioReference(audio_bundle.source, audio_bundle.config, RECIPES["int8"]).tokens(sound)
    assert relative_error(encode[form](), expected) < NEAR_FAKE_QUANT
    assert relative_error(expected, reference(audio_bundle.tower, sound)) > NEAR_FAKE_QUANT / 4


def test_a_clip_is_filled_up_as_the_reference_does(audio_bundle: AudioBundle) -> None:
    tower, sound = audio_bundle.tower, voice(16000)
    with torch.no_grad():
        padding = tower.embedder(input_ids=torch.tensor([[tower.config.padding_id]]))[0].numpy()
    expected = np.concatenate((reference(tower, sound), np.repeat(padding, CLIP_TOKENS - 7, 0)))
    assert relative_error(audio_bundle.clip("fp32").padded(sound), expected) < EXACT


def test_a_second_sound_starts_afresh(audio_bundle: AudioBundle) -> None:
    stream, sound = audio_bundle.stream("fp32"), voice(20000)
    first, _, again = (np.stack(list(stream([s]))) for s in (sound, voice(30000, seed=1), sound))
    assert np.array_equal(first, again)


def test_all_flops_are_delegated(audio_bundle: AudioBundle) -> None:
    for recipe in ("fp32", "int8"):
        for part in audio_bundle.parts(recipe)[:2]:
            assert part.delegation is not None
            assert part.delegation.flop_share > 0.999
            assert sum(part.delegation.fallbacks.values()) <= 6


def test_signatures_share_the_weights(audio_bundle: AudioBundle) -> None:
    encoder = audio_bundle.parts("int8")[0]
    begin = encoder.views[STREAM]
    models = flatbuffer.parse_file(encoder.path), flatbuffer.parse(np.memmap(encoder.path, np.uint8, "r", begin).data)
    clip, stream = (
        {b.offset + at for b in flatbuffer.external_buffers(m)} for m, at in zip(models, (0, begin), strict=True)
    )
    assert len(clip) > 20 and clip < stream
    assert [len(m.signatureDefs) for m in models] == [1, 1]


def test_same_input_same_bytes(audio_bundle: AudioBundle, tmp_path: Path) -> None:
    again = audio_bundle.write("int8", tmp_path)
    assert again.encoder.read_bytes() == audio_bundle.parts("int8")[0].path.read_bytes()


def test_front_end_in_the_graph() -> None:
    sound = voice(30000)
    sound += np.random.default_rng(5).normal(0, 0.01, len(sound)).astype(np.float32)
    hops = torch.from_numpy(clip_hops(sound)).unsqueeze(0)
    mel = LogMelGraph(128)(hops)[0, :-LOST].numpy()
    expected = LogMel().clip(sound)
    assert mel.shape == expected.shape
    assert np.abs(mel - expected).max() < 2e-4


def test_longer_than_a_clip(audio_bundle: AudioBundle) -> None:
    with pytest.raises(SoundError, match="streaming encoder"):
        audio_bundle.clip("fp32")(np.zeros(16000 * 5, np.float32))


@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_the_bundles_tower_passes_verification(recipe: str, audio_bundle: AudioBundle) -> None:
    job = audio_bundle.job(recipe)
    parity = Parity(audio_checks(job, audio_bundle.config, {"litert": OpenedAudio(audio_bundle.pack(recipe))}))
    parity.require()
    assert {c.runtime for c in parity.checks} == {"eager", "onnxruntime", "litert"}
    assert parity.worst("litert", "audio_encoder") is not None


def test_verification_sees_a_tower_that_hears_something_else(audio_bundle: AudioBundle) -> None:
    class Deaf(OpenedAudio):
        def clip(self, sound: np.ndarray) -> np.ndarray:
            return super().clip(sound * 0.5)

        def stream(self, sound: np.ndarray) -> np.ndarray:
            return super().stream(sound)[:-1]

        def end(self) -> np.ndarray:
            return super().end() * 1.01

    checks = audio_checks(audio_bundle.job("fp32"), audio_bundle.config, {"litert": Deaf(audio_bundle.pack("fp32"))})
    assert not any(c.passed for c in checks if c.runtime == "litert")
    assert not any(
        c.passed
        for c in audio_checks(audio_bundle.job("fp32"), audio_bundle.config, {"litert": None})
        if c.runtime == "litert"
    )


def test_sections(audio_bundle: AudioBundle) -> None:
    found = {s.kind: s for s in sections(audio_bundle.pack("fp32"))}
    assert {"audio_encoder_hw", "audio_adapter", "end_of_audio", STREAM} <= set(found)
    assert found["audio_encoder_hw"].begin < found[STREAM].begin < found[STREAM].end == found["audio_encoder_hw"].end


@torch.no_grad()
def spoken_greedy(
    audio_bundle: AudioBundle, prompt: str, sounds: list[np.ndarray], count: int
) -> tuple[list[int], list[float]]:
    """What ``transformers`` says to ``prompt`` whose audio tokens stand for ``sounds``; with each token's margin."""
    config, text = audio_bundle.config, audio_bundle.source.text
    hf, tokenizer = load_hf(audio_bundle.source), audio_bundle.job("fp32").tokenizer
    ids = [text.bos_id, *tokenizer.encode(prompt)]
    soft = torch.from_numpy(np.concatenate([AudioReference(audio_bundle.source, config).clip(s) for s in sounds]))
    assert ids.count(config.soft_id) == len(soft)
    tokens: list[int] = []
    margins: list[float] = []
    for _ in range(count):
        now = torch.tensor([ids + tokens])
        embeds = hf.get_input_embeddings()(now)
        embeds[0, now[0] == config.soft_id] = soft
        end = audio_bundle.tower.embedder(input_ids=torch.tensor([[config.end_id]]))
        embeds[0, now[0] == config.end_id] = end[0]
        ple = hf.model.get_per_layer_inputs(now)
        logits = hf(inputs_embeds=embeds, per_layer_inputs=ple, use_cache=False).logits[0, -1]
        best = logits.topk(2)
        tokens.append(int(best.indices[0]))
        margins.append(float(best.values[0] - best.values[1]))
    return tokens, margins


@pytest.mark.parametrize("samples", [16000, 16130, LONGEST])
def test_stock_engine_answers_a_sound_as_transformers_does(
    samples: int, audio_bundle: AudioBundle, tmp_path: Path
) -> None:
    sound, path = voice(samples), tmp_path / "a.wav"
    soundfile.write(path, sound, 16000, subtype="FLOAT")
    job, count = audio_bundle.job("fp32"), 8
    chat = LiteRtChat(audio_bundle.pack("fp32"), media=MediaFrontEnd(audio=True, audio_tokens=CLIP_TOKENS))
    said = "".join(chat.send("What is it?", GREEDY, count, Attachments(audio=(path,))))
    chat.close()
    c = audio_bundle.config
    begin, soft, end = (job.tokenizer.token(i) for i in (c.begin_id, c.soft_id, c.end_id))
    block = f"\n\n{begin}{soft * CLIP_TOKENS}{end}\n\n"
    prompt = f"<start_of_turn>user\n{block}What is it?<end_of_turn>\n<start_of_turn>model\n"
    tokens, margins = spoken_greedy(audio_bundle, prompt, [sound], count)
    # Not by token: a text may be cut into other tokens than those it was made of.
    at = max(n for n in range(count + 1) if said.startswith(job.tokenizer.decode(tokens[:n])))
    assert at >= 4 or margins[at] < 1e-3, (said, job.tokenizer.decode(tokens), margins)

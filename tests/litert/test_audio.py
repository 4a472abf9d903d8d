"""The audio tower's TFLite models: alone from sound to soft tokens, and in a bundle that the engine hears with."""

from __future__ import annotations

import itertools
import json
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from ai_edge_litert.interpreter import Interpreter
from safetensors.torch import load_file, save_file
from transformers import Gemma3nAudioFeatureExtractor

from g3n_compiler.lower.job import Job
from g3n_compiler.lower.litert.audio import AudioFiles, OpenedAudio, convert_audio, tower_sections, write_audio
from g3n_compiler.lower.litert.bind_weights import bind
from g3n_compiler.lower.litert.container import sections, write_litertlm
from g3n_compiler.lower.litert.metadata import executor_metadata, llm_metadata
from g3n_compiler.lower.litert.section import TowerSection
from g3n_compiler.lower.litert.tables import write_ple_embedder, write_token_embedder
from g3n_compiler.lower.litert.towers import media_of
from g3n_compiler.models.gemma3n.audio_mel import LOST, LogMelGraph
from g3n_compiler.models.gemma3n.tower_config import AudioConfig
from g3n_compiler.models.gemma3n.transformers_model import load_hf
from g3n_compiler.models.registry import text_weights
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.source import Source
from g3n_compiler.verify.audio import AudioReference, audio_checks
from g3n_compiler.verify.checks import EXACT, Parity, relative_error
from g3n_runtime.chat import GREEDY, Attachments
from g3n_runtime.litert.audio import LiteRtAudio
from g3n_runtime.litert.audio_names import ENDED
from g3n_runtime.litert.chat import LiteRtChat
from g3n_runtime.litert.media import MediaFrontEnd
from g3n_runtime.media.mel import OVERLAP, LogMel, clip_hops, frame_count
from tests.audio.conftest import AudioTower, make_audio_tower
from tests.audio.test_mel import voice
from tests.jobs import make_job
from tests.litert.conftest import CONTEXT, PREFILL, Converted

NEAR_FAKE_QUANT = 0.02
"""Two roundings of the same activations may differ by a step where they lie between two."""
CLIP_TOKENS = 24
"""Soft tokens of the longest clip: 3.84 s."""
LONGEST = CLIP_TOKENS * 16 * 160 - 3 * 160
FULL = (CLIP_TOKENS * 16 + LOST) * 160
"""Samples of a sound that fills a call of the encoder."""
BEYOND = (FULL + 160, FULL + CLIP_TOKENS * 16 * 160, 2 * FULL + 9000)
"""Of longer ones: by one mel frame, filling two calls, and three of which the last is not full."""


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

    def audio(self, recipe: str) -> LiteRtAudio:
        encoder, adapter, _ = self.parts(recipe)
        return LiteRtAudio(encoder.path, adapter.path)

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
        tokenizer = job.tokenizer
        llm = llm_metadata(CONTEXT, tokenizer, tokenizer.template.jinja, media_of(job))
        write_litertlm(path, models, tokenizer.sentencepiece, llm, executor_metadata(text, CONTEXT))
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


@pytest.mark.parametrize("samples", [513, 16000, 16130, 48123, LONGEST, *BEYOND])
def test_equals_transformers(samples: int, audio_bundle: AudioBundle) -> None:
    sound = voice(samples)
    assert relative_error(audio_bundle.audio("fp32")(sound), reference(audio_bundle.tower, sound)) < EXACT


@pytest.mark.parametrize("samples", [48123, 100000])
def test_int8_equals_the_fake_quant_reference(samples: int, audio_bundle: AudioBundle) -> None:
    sound = voice(samples)
    expected = AudioReference(audio_bundle.source, audio_bundle.config, RECIPES["int8"]).tokens(sound)
    assert relative_error(audio_bundle.audio("int8")(sound), expected) < NEAR_FAKE_QUANT
    assert relative_error(expected, reference(audio_bundle.tower, sound)) > NEAR_FAKE_QUANT / 4


def test_a_clip_is_filled_up_as_the_reference_does(audio_bundle: AudioBundle) -> None:
    tower, sound = audio_bundle.tower, voice(16000)
    with torch.no_grad():
        padding = tower.embedder(input_ids=torch.tensor([[tower.config.padding_id]]))[0].numpy()
    expected = np.concatenate((reference(tower, sound), np.repeat(padding, CLIP_TOKENS - 7, 0)))
    assert relative_error(audio_bundle.audio("fp32").padded(sound), expected) < EXACT


@pytest.mark.parametrize("samples", BEYOND)
def test_a_longer_sound_is_not_filled_up(samples: int, audio_bundle: AudioBundle) -> None:
    found = audio_bundle.audio("fp32").padded(voice(samples))
    assert len(found) == audio_bundle.config.soft_tokens(frame_count(samples)) > CLIP_TOKENS


@pytest.mark.parametrize("samples", [30000, FULL, BEYOND[1], BEYOND[2]])
def test_a_state_that_is_left_over_changes_nothing(samples: int, audio_bundle: AudioBundle) -> None:
    """The engine does not reset the state between two sounds of one conversation."""
    audio, sound = audio_bundle.audio("fp32"), voice(20000)
    (segment,) = audio.segments(sound)
    fresh = audio.encode(segment, audio.empty_state())
    state = audio.empty_state()
    for other in audio.segments(voice(samples, seed=1)):
        state = audio.encode(other, state)[2]
    assert any(state[name].any() for name in state if name != ENDED)
    again = audio.encode(segment, state)
    assert all(np.array_equal(x, y) for x, y in zip(fresh[:2], again[:2], strict=True))
    # Zeros everywhere mean the same as a state that starts.
    empty = audio.encode(segment, {name: np.zeros_like(x) for name, x in state.items()})
    assert all(np.array_equal(x, y) for x, y in zip(fresh[:2], empty[:2], strict=True))


def test_the_encoder_is_one_that_the_engine_streams(audio_bundle: AudioBundle) -> None:
    """The contract of the engine's ``AudioStreamingEncoder``."""
    interpreter = Interpreter(model_path=str(audio_bundle.parts("fp32")[0].path))
    (signature,) = interpreter.get_signature_list().values()
    runner = interpreter.get_signature_runner()
    shapes = {n: list(d["shape"]) for n, d in runner.get_input_details().items()}
    hops = CLIP_TOKENS * 16 + LOST
    assert (shapes["segment_mask"], shapes["segment_values"]) == ([1, hops], [1, hops, 160])
    assert np.prod(shapes["feature_state_0"]) == LOST == OVERLAP
    assert {"features", "mask"} == set(signature["outputs"]) - set(signature["inputs"])
    assert {"segment_mask", "segment_values"} == set(signature["inputs"]) - set(signature["outputs"])
    outputs = {n: list(d["shape"]) for n, d in runner.get_output_details().items()}
    assert all(shapes[n] == outputs[n] for n in shapes if n in outputs)
    assert runner.get_input_details()["prev_mask"]["dtype"] is np.bool_


def test_all_flops_are_delegated(audio_bundle: AudioBundle) -> None:
    for recipe in ("fp32", "int8"):
        for part in audio_bundle.parts(recipe)[:2]:
            assert part.delegation is not None
            assert part.delegation.flop_share > 0.999
            assert sum(part.delegation.fallbacks.values()) <= 6


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


@pytest.mark.parametrize("recipe", ["fp32", "int8"])
def test_the_bundles_tower_passes_verification(recipe: str, audio_bundle: AudioBundle) -> None:
    job = audio_bundle.job(recipe)
    parity = Parity(audio_checks(job, audio_bundle.config, {"litert": lambda: OpenedAudio(audio_bundle.pack(recipe))}))
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

    checks = audio_checks(
        audio_bundle.job("fp32"), audio_bundle.config, {"litert": lambda: Deaf(audio_bundle.pack("fp32"))}
    )
    assert not any(c.passed for c in checks if c.runtime == "litert")


def test_a_tower_is_closed_before_the_next_is_opened(audio_bundle: AudioBundle) -> None:
    class Silent:
        def clip(self, sound: np.ndarray) -> np.ndarray:
            return np.empty(0)

        def stream(self, sound: np.ndarray) -> np.ndarray:
            return np.empty(0)

        def end(self) -> np.ndarray:
            return np.empty(0)

    opened = weakref.WeakSet[Silent]()

    def first() -> Silent:
        opened.add(model := Silent())
        return model

    def second() -> None:
        assert not opened, "E2B's towers take a gigabyte each"

    checks = audio_checks(audio_bundle.job("fp32"), audio_bundle.config, {"litert": first, "executorch": second})
    heard = [[c.name for c in checks if c.runtime == runtime] for runtime in ("litert", "executorch")]
    assert heard[0] == heard[1] and "end of audio" in heard[0]
    assert not any(c.passed for c in checks if c.runtime in ("litert", "executorch"))


def test_sections(audio_bundle: AudioBundle) -> None:
    found = sorted(sections(audio_bundle.pack("fp32")), key=lambda s: s.begin)
    assert {"audio_encoder_hw", "audio_adapter", "end_of_audio"} <= {s.kind for s in found}
    assert all(one.end <= other.begin for one, other in itertools.pairwise(found))


def soft_tokens(audio_bundle: AudioBundle, sound: np.ndarray) -> np.ndarray:
    """What stands in a prompt for ``sound``: padded, if it is a clip."""
    tower = AudioReference(audio_bundle.source, audio_bundle.config)
    return tower.clip(sound) if len(sound) < FULL else tower.tokens(sound)


@torch.no_grad()
def spoken_greedy(
    audio_bundle: AudioBundle, prompt: str, sounds: list[np.ndarray], count: int
) -> tuple[list[int], list[float]]:
    """What ``transformers`` says to ``prompt`` whose audio tokens stand for ``sounds``; with each token's margin."""
    config, text = audio_bundle.config, audio_bundle.source.text
    hf, tokenizer = load_hf(audio_bundle.source), audio_bundle.job("fp32").tokenizer
    ids = [text.bos_id, *tokenizer.encode(prompt)]
    soft = torch.from_numpy(np.concatenate([soft_tokens(audio_bundle, s) for s in sounds]))
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


def write_sound(path: Path, sound: np.ndarray) -> Path:
    soundfile.write(path, sound, 16000, subtype="FLOAT")
    return path


def require_answer(audio_bundle: AudioBundle, said: str, turn: str, sounds: list[np.ndarray], count: int) -> None:
    """Require that ``said`` begins as the answer of ``transformers`` does, up to a token that was nearly a draw.

    Args:
        turn: what was asked, with a NUL for each of ``sounds``.
    """
    c, tokenizer = audio_bundle.config, audio_bundle.job("fp32").tokenizer
    begin, soft, end = (tokenizer.token(i) for i in (c.begin_id, c.soft_id, c.end_id))
    for sound in sounds:
        turn = turn.replace("\0", f"\n\n{begin}{soft * len(soft_tokens(audio_bundle, sound))}{end}\n\n", 1)
    prompt = f"<start_of_turn>user\n{turn}<end_of_turn>\n<start_of_turn>model\n"
    tokens, margins = spoken_greedy(audio_bundle, prompt, sounds, count)
    # Not by token: a text may be cut into other tokens than those it was made of.
    at = max(n for n in range(count + 1) if said.startswith(tokenizer.decode(tokens[:n])))
    assert at >= 4 or margins[at] < 1e-3, (said, tokenizer.decode(tokens), margins)


@pytest.mark.parametrize("samples", [16000, 16130, LONGEST, *BEYOND])
def test_stock_engine_answers_a_sound_as_transformers_does(
    samples: int, audio_bundle: AudioBundle, tmp_path: Path
) -> None:
    sound, count = voice(samples), 8
    path = write_sound(tmp_path / "a.wav", sound)
    chat = LiteRtChat(audio_bundle.pack("fp32"), media=MediaFrontEnd(audio=True, audio_tokens=CLIP_TOKENS))
    said = "".join(chat.send("What is it?", GREEDY, count, Attachments(audio=(path,))))
    chat.close()
    require_answer(audio_bundle, said, "\0What is it?", [sound], count)


@pytest.mark.parametrize("samples", [16000, LONGEST, *BEYOND])
def test_what_a_sound_takes_of_the_context_is_counted(samples: int, audio_bundle: AudioBundle, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", voice(samples))
    front = MediaFrontEnd(audio=True, audio_tokens=CLIP_TOKENS)
    content = front.content("What is it?", Attachments(audio=(path,)))
    taken = front.soft_tokens([{"role": "user", "content": content}])
    assert taken == 1 + len(audio_bundle.audio("fp32").padded(voice(samples)))


@pytest.mark.parametrize("lengths", [(FULL + 160, 16000), (16000, FULL + 160), (FULL, 9000), (9000, 16000)])
def test_stock_engine_hears_each_of_two_sounds_alone(
    lengths: tuple[int, int], audio_bundle: AudioBundle, tmp_path: Path
) -> None:
    """After ``FULL`` samples no hop is missing that would say that the sound ended."""
    sounds, count = [voice(n, seed=i) for i, n in enumerate(lengths)], 8
    paths = tuple(write_sound(tmp_path / f"{i}.wav", sound) for i, sound in enumerate(sounds))
    chat = LiteRtChat(audio_bundle.pack("fp32"), media=MediaFrontEnd(audio=True, audio_tokens=CLIP_TOKENS))
    said = "".join(chat.send("Why?", GREEDY, count, Attachments(audio=paths)))
    require_answer(audio_bundle, said, "\0\0Why?", sounds, count)
    chat.reset()
    said = "".join(chat.send("Why?", GREEDY, count, Attachments(audio=paths[1:])))
    chat.close()
    require_answer(audio_bundle, said, "\0Why?", sounds[1:], count)

"""The audio tower's TFLite models, from sound to soft tokens, against ``transformers`` and the fake-quant reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Gemma3nAudioFeatureExtractor

from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.lower.litert.audio import AudioParts, convert_audio, write_audio
from g3n_compiler.modules.audio import AudioEncoder
from g3n_compiler.modules.audio_mel import LOST, LogMelGraph
from g3n_compiler.modules.audio_weights import AudioReader
from g3n_compiler.modules.multimodal_embedder import Embedder
from g3n_compiler.quantize.fake import FakeQuantWeights
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.verify.parity import EXACT, relative_error
from g3n_runtime.audio import LogMel, clip_hops
from g3n_runtime.errors import SoundError
from g3n_runtime.litert_audio import LiteRtClipEncoder, LiteRtStreamEncoder
from tests.audio.conftest import Ears, make_ears
from tests.audio.test_mel import voice

NEAR_FAKE_QUANT = 0.02
"""Two roundings of the same activations may differ by a step where they lie between two."""


@dataclass(frozen=True)
class LoweredEars:
    ears: Ears
    graphs: dict[str, bytes]
    folder: Path
    written: dict[str, AudioParts]

    def parts(self, recipe: str) -> AudioParts:
        """The models of ``recipe``, written at the first call."""
        if recipe not in self.written:
            folder = self.folder / recipe
            folder.mkdir()
            self.written[recipe] = write_audio(self.graphs, self.ears.config, RECIPES[recipe], self.ears.read, folder)
        return self.written[recipe]

    def clip(self, recipe: str) -> LiteRtClipEncoder:
        parts = self.parts(recipe)
        return LiteRtClipEncoder(parts.encoder, parts.adapter)

    def stream(self, recipe: str) -> LiteRtStreamEncoder:
        parts = self.parts(recipe)
        path = parts.encoder.with_name("stream.tflite")
        path.write_bytes(parts.encoder.read_bytes()[parts.stream_begin :])
        return LiteRtStreamEncoder(path)


@pytest.fixture(scope="session")
def lowered(tmp_path_factory: pytest.TempPathFactory) -> LoweredEars:
    folder = tmp_path_factory.mktemp("audio_litert")
    ears = make_ears(folder, conf_num_hidden_layers=1)
    return LoweredEars(ears, convert_audio(ears.config), folder, {})


@torch.no_grad()
def reference(ears: Ears, sound: np.ndarray) -> np.ndarray:
    """Soft tokens ``[N, hidden]`` that ``transformers`` makes of ``sound``."""
    inputs = Gemma3nAudioFeatureExtractor()([sound], return_tensors="pt")
    mask = inputs.input_features_mask.float()
    return ears.embedder(inputs_embeds=ears.reference(inputs.input_features, mask))[0].numpy()


@torch.no_grad()
def fake_quant(ears: Ears, recipe: str, sound: np.ndarray) -> np.ndarray:
    encoder = AudioEncoder(
        ears.config, FakeQuantWeights(AudioReader(ears.config, ears.read), ears.specs, RECIPES[recipe])
    )
    mel = torch.from_numpy(LogMel().clip(sound)).unsqueeze(0)
    features = encoder.encode(mel, torch.ones(mel.shape[:2]))
    return Embedder(ears.config.embedder, "audio", encoder.weights).soft(features)[0].numpy()


@pytest.mark.parametrize("samples", [513, 16000, 16130, 48123, 80000, 480000])
def test_clip_equals_transformers(samples: int, lowered: LoweredEars) -> None:
    sound = voice(samples)
    expected = reference(lowered.ears, sound)
    assert relative_error(lowered.clip("fp32")(sound), expected) < EXACT


@pytest.mark.parametrize("samples", [513, 16000, 16130, 48123, 80000])
def test_stream_equals_transformers(samples: int, lowered: LoweredEars) -> None:
    sound = voice(samples)
    tokens = np.stack(list(lowered.stream("fp32")(iter(np.array_split(sound, 7)))))
    assert relative_error(tokens, reference(lowered.ears, sound)) < EXACT


@pytest.mark.parametrize("form", ["clip", "stream"])
def test_int8_equals_the_fake_quant_reference(form: str, lowered: LoweredEars) -> None:
    sound = voice(48123)
    encode: dict[str, Callable[[], np.ndarray]] = {
        "clip": lambda: lowered.clip("int8")(sound),
        "stream": lambda: np.stack(list(lowered.stream("int8")([sound]))),
    }
    expected = fake_quant(lowered.ears, "int8", sound)
    assert relative_error(encode[form](), expected) < NEAR_FAKE_QUANT
    assert relative_error(expected, reference(lowered.ears, sound)) > NEAR_FAKE_QUANT / 4


def test_a_clip_is_filled_up_as_the_reference_does(lowered: LoweredEars) -> None:
    ears, sound = lowered.ears, voice(16000)
    tokens = lowered.clip("fp32").padded(sound)
    with torch.no_grad():
        padding = ears.embedder(input_ids=torch.tensor([[ears.config.padding_id]]))[0].numpy()
    expected = np.concatenate((reference(ears, sound), np.repeat(padding, 181, 0)))
    assert relative_error(tokens, expected) < EXACT


def test_a_second_sound_starts_afresh(lowered: LoweredEars) -> None:
    stream, sound = lowered.stream("fp32"), voice(20000)
    first, _, again = (np.stack(list(stream([s]))) for s in (sound, voice(30000, seed=1), sound))
    assert np.array_equal(first, again)


def test_all_flops_are_delegated(lowered: LoweredEars) -> None:
    for recipe in ("fp32", "int8"):
        delegation = lowered.parts(recipe).delegation
        assert delegation.flop_share > 0.999
        assert sum(delegation.fallbacks.values()) <= 3


def test_signatures_share_the_weights(lowered: LoweredEars) -> None:
    parts = lowered.parts("int8")
    headers = [flatbuffer.parse_file(parts.encoder)]
    headers.append(flatbuffer.parse(np.memmap(parts.encoder, np.uint8, "r", offset=parts.stream_begin).data))
    clip, stream = (
        {b.offset + begin for b in flatbuffer.external_buffers(m)}
        for m, begin in zip(headers, (0, parts.stream_begin), strict=True)
    )
    assert len(clip) > 20 and clip < stream
    assert [len(m.signatureDefs) for m in headers] == [1, 1]


def test_same_input_same_bytes(lowered: LoweredEars, tmp_path: Path) -> None:
    ears = lowered.ears
    again = write_audio(lowered.graphs, ears.config, RECIPES["int8"], ears.read, tmp_path)
    assert again.encoder.read_bytes() == lowered.parts("int8").encoder.read_bytes()


def test_front_end_in_the_graph() -> None:
    sound = voice(30000)
    sound += np.random.default_rng(5).normal(0, 0.01, len(sound)).astype(np.float32)
    hops = torch.from_numpy(clip_hops(sound)).unsqueeze(0)
    mel = LogMelGraph(128)(hops)[0, :-LOST].numpy()
    expected = LogMel().clip(sound)
    assert mel.shape == expected.shape
    assert np.abs(mel - expected).max() < 2e-4


def test_longer_than_a_clip(lowered: LoweredEars) -> None:
    with pytest.raises(SoundError, match="streaming encoder"):
        lowered.clip("fp32")(np.zeros(16000 * 31, np.float32))


def test_end_of_audio_row(lowered: LoweredEars) -> None:
    from ai_edge_litert.interpreter import Interpreter

    ears = lowered.ears
    end = Interpreter(model_path=str(lowered.parts("int8").end)).get_signature_runner()()["embedding"]
    with torch.no_grad():
        expected = ears.embedder(input_ids=torch.tensor([[ears.config.end_id]])).numpy()
    assert relative_error(end[0], expected[0]) < EXACT

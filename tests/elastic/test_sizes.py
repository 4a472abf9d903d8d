"""The sizes of one model, each against the reference and against the same size compiled by itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from g3n_compiler.lower.litert import flatbuffer
from g3n_compiler.models.eager_cache import EagerCache
from g3n_compiler.models.gemma3n.transformers_model import load_hf
from g3n_compiler.quantize.recipe import RECIPES
from g3n_compiler.verify.checks import relative_error
from g3n_compiler.verify.reference import Reference
from g3n_runtime.litert.elastic import ElasticText
from g3n_runtime.litert.model import LiteRtModel
from g3n_runtime.litert.speculation import SpeculativeDecoder
from tests.elastic.conftest import CONTEXT, FULL, PREFILL, SMALL, WINDOW, Nested

Draw = Callable[[int], list[int]]


@pytest.mark.parametrize("name", [FULL, SMALL])
def test_fp32_equals_the_reference_of_that_slice(nested: Nested, ids: Draw, name: str) -> None:
    tokens, prompt = ids(CONTEXT), PREFILL + 9
    want = Reference(nested.of_size(name)).logits(tokens).numpy()
    model = LiteRtModel(nested.parts("fp32"), 1, None if name == FULL else name)
    assert relative_error(model.logits(tokens), want) < 1e-4
    assert relative_error(model.prefilled_logits(tokens, prompt), want[prompt - 1 :]) < 1e-4


def test_the_stock_engines_head_has_the_plain_signatures_of_the_largest(nested: Nested, ids: Draw) -> None:
    model = flatbuffer.parse_file(nested.default("fp32").decoder)
    assert [d.signatureKey.decode() for d in model.signatureDefs] == [f"prefill_{PREFILL}", "decode"]
    tokens = ids(40)
    got = LiteRtModel(nested.default("fp32"), 1).prefilled_logits(tokens, 30)
    assert np.array_equal(got, LiteRtModel(nested.parts("fp32"), 1).prefilled_logits(tokens, 30))


@pytest.mark.parametrize("name", [FULL, SMALL])
def test_quantised_equals_the_fake_quant_reference(nested: Nested, ids: Draw, name: str) -> None:
    """Equal to the last bits until an activation lies on a rounding edge; random weights carry that one step far."""
    tokens, source = ids(40), nested.of_size(name)
    want = Reference(source, RECIPES["int4"]).logits(tokens).numpy()
    noise = Reference(source).logits(tokens).numpy()
    got = LiteRtModel(nested.parts("int4"), 1, None if name == FULL else name).prefilled_logits(tokens, 20)
    errors, usual = (np.abs(a - want[19:]).max(-1) / np.abs(want[19:]).max(-1) for a in (got, noise[19:]))
    assert errors.min() < 1e-4 and np.median(errors) < 0.5 * np.median(usual)


def test_weights_lie_in_the_file_once(nested: Nested) -> None:
    """The file of both sizes has the bytes of the larger one's weights, and two heads."""
    model = flatbuffer.parse_file(nested.default("int4").decoder)
    first = min(b.offset for b in flatbuffer.external_buffers(model))
    specs = flatbuffer.external_buffers(model)
    held = nested.default("int4").decoder.stat().st_size - first
    padding = 64 * len(specs)
    wanted = sum(b.size for b in specs)
    assert wanted <= held <= wanted + padding
    view = flatbuffer.parse_file(nested.parts("int4").decoder)
    assert sum(b.size for b in flatbuffer.external_buffers(view)) == wanted


def switched(count: int) -> list[str]:
    """A size for each of ``count`` tokens; the changes come at no regular distance."""
    return [SMALL if (i * i) % 7 in (1, 4) else FULL for i in range(count)]


def test_changing_the_size_at_any_token_equals_the_reference_that_does_the_same(nested: Nested, ids: Draw) -> None:
    tokens, prompt = ids(CONTEXT), WINDOW + 5
    order = switched(CONTEXT - prompt)
    assert {SMALL, FULL} == set(order)
    text = ElasticText(nested.model("fp32"))
    text.prefill(tokens[:prompt], SMALL)
    got = np.stack([text.decode(token, size) for token, size in zip(tokens[prompt:], order, strict=True)])
    references = {name: Reference(nested.of_size(name)) for name in (FULL, SMALL)}
    cache = EagerCache(references[FULL].config)
    with torch.no_grad():
        references[SMALL]._step(tokens[:prompt], cache)
        steps = zip(tokens[prompt:], order, strict=True)
        want = np.stack([references[size]._step([token], cache)[-1].numpy() for token, size in steps])
    assert relative_error(got, want) < 1e-4
    alone = references[FULL].logits(tokens).numpy()[prompt:]
    assert relative_error(got, alone) > 1e-2


def test_changing_the_size_equals_transformers_that_hands_its_cache_over(nested: Nested, ids: Draw) -> None:
    tokens, prompt = ids(40), 20
    order = switched(len(tokens) - prompt)
    models = {name: load_hf(nested.of_size(name)) for name in (FULL, SMALL)}
    text = ElasticText(nested.model("fp32"))
    text.prefill(tokens[:prompt], FULL)
    with torch.no_grad():
        past = models[FULL](input_ids=torch.tensor([tokens[:prompt]]), use_cache=True).past_key_values
        for token, size in zip(tokens[prompt:], order, strict=True):
            out = models[size](input_ids=torch.tensor([[token]]), past_key_values=past, use_cache=True)
            past = out.past_key_values
            assert relative_error(text.decode(token, size)[None], out.logits[0].numpy()) < 1e-4


def test_verifying_gives_what_decoding_gives(nested: Nested, ids: Draw) -> None:
    """And what is taken back leaves no trace, also where it pushed older tokens out of a ring."""
    tokens, model = ids(CONTEXT), nested.model("fp32")
    want = Reference(nested.of_size(FULL)).logits(tokens).numpy()
    text = ElasticText(model)
    at = 0
    for kept in (1, 5, 2, 3, 4, 5, 1, 2, 5, 5, 3, 2, 4, 5, 1, 5, 5):
        wrong = [9] * (model.verify_length - kept)
        got = text.verify([*tokens[at : at + kept], *wrong])[:kept]
        assert relative_error(got, want[at : at + kept]) < 1e-4
        text.keep(kept)
        at += kept
    assert at > 2 * WINDOW and text.ids == tokens[:at]
    assert relative_error(text.decode(tokens[at], FULL)[None], want[at : at + 1]) < 1e-4


def test_speculation_writes_what_the_largest_would(nested: Nested, ids: Draw) -> None:
    model, count = nested.model("fp32"), 50
    for prompt in (ids(4), ids(WINDOW + 9)):
        want = LiteRtModel(nested.default("fp32"), 1).greedy(prompt, count)
        text = ElasticText(model)
        text.prefill(prompt[:-1], FULL)
        decoder = SpeculativeDecoder(text, SMALL)
        assert list(decoder.generate(prompt[-1], count)) == want
        assert text.ids == [*prompt, *want[:-1]]
        assert 0 < decoder.acceptance.rate < 1
        stop = want[17]
        text = ElasticText(model)
        text.prefill(prompt[:-1], FULL)
        out = list(SpeculativeDecoder(text, SMALL).generate(prompt[-1], count, {stop}))
        assert out == want[: want.index(stop)] and text.ids == [*prompt, *out]

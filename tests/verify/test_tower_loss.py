"""What rounding costs the towers: nothing if nothing is rounded, and told of the very step whose weight is rounded."""

from __future__ import annotations

from dataclasses import replace

import pytest

from g3n_compiler.nano import checkpoint_dir
from g3n_compiler.quantize.recipe import INT4, RECIPES, Recipe
from g3n_compiler.report.loss import part_sentences
from g3n_compiler.source import Source
from g3n_compiler.verify.audio import AudioReference, golden_sound
from g3n_compiler.verify.checks import relative_error
from g3n_compiler.verify.tower_loss import measure_towers
from g3n_compiler.verify.vision import VisionReference, golden_image

SIDES = (768, 256)


@pytest.fixture(scope="module")
def nano() -> Source:
    return Source.open(checkpoint_dir())


def only(*names: str) -> Recipe:
    """Nothing is rounded but these weights, to 4 bits."""
    return replace(RECIPES["fp32"], name="one", weights=dict.fromkeys(names, INT4))


def test_without_rounding_nothing_is_lost(nano: Source) -> None:
    found = measure_towers(nano, only(), SIDES)
    assert list(found) == ["vision", "audio"] and "256 x 256" in found["vision"].given
    for loss in found.values():
        assert loss.error < 1e-5 and max(loss.steps.values()) < 1e-5
    assert len(found["vision"].steps) == 16 and list(found["audio"].steps) == [
        "the front end",
        *(f"layer {i}" for i in range(3)),
        "the adapter",
    ]


def test_the_steps_are_those_of_the_whole(nano: Source) -> None:
    assert nano.vision is not None and nano.audio is not None
    image, sound = golden_image(256), golden_sound(2.0)
    seen, heard = VisionReference(nano, nano.vision), AudioReference(nano, nano.audio)
    *_, last = seen.steps(image)
    assert relative_error(last, seen.embed(image)) < 1e-6
    *_, last = heard.clip_steps(sound)
    assert relative_error(last, heard.tokens(sound)) < 1e-5


@pytest.mark.parametrize(
    ("tower", "weight", "step"),
    [
        ("audio", "audio_tower.conformer.1.ffw_layer_start.ffw_layer_1", "layer 1"),
        ("vision", "vision.blocks.2.3.attn.value.proj", "blocks.2.3"),
    ],
)
def test_a_rounded_weight_is_told_of_its_own_step(nano: Source, tower: str, weight: str, step: str) -> None:
    assert weight in nano.family.towers[tower].weights(nano)
    source = Source.open(checkpoint_dir(), modalities=("text", tower))
    (loss,) = measure_towers(source, only(weight), SIDES).values()
    assert loss.error > 1e-3 and {name for name, error in loss.steps.items() if error > 1e-4} == {step}


def test_what_people_read(nano: Source) -> None:
    told = {"vision": {"given": "a picture", "error": 0.0123, "steps": {"a": 0.01, "b": 0.02, "c": 0.03}}}
    manifest = {"loss": {"towers": told}}
    assert part_sentences(manifest) == [
        "vision: soft tokens of a picture are off by 1.23%, most in c (3.00%), b (2.00%)"
    ]
    assert part_sentences({}) == [] == part_sentences({"loss": {}})

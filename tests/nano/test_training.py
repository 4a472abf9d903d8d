"""The scripts that make nano, on tiny inputs: loss, slices, schedule, batches, n-gram baseline, corpus readers."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import torch
from torch.nn import functional as F

from nano_training import kjv, train, wordnet
from nano_training.config import full_config
from nano_training.elastic import FULL, HALF, SMALLEST, ElasticModel, sample_slice
from nano_training.loss import SOFTCAP, softcapped_cross_entropy
from nano_training.ngram import KneserNey
from nano_training.replay import Replay
from nano_training.tokenizer import BOS_ID, VOCAB_SIZE


@pytest.fixture(scope="module")
def elastic() -> ElasticModel:
    return ElasticModel(full_config(), seed=0)


def test_loss_and_gradients_match_the_plain_way() -> None:
    torch.manual_seed(0)
    hidden = torch.randn(700, 16, dtype=torch.double, requires_grad=True)
    head = torch.randn(50, 16, dtype=torch.double, requires_grad=True)
    targets = torch.randint(0, 50, (700,))
    plain = F.cross_entropy(SOFTCAP * torch.tanh(hidden @ head.t() / SOFTCAP), targets)
    ours = softcapped_cross_entropy(hidden, head, targets)
    torch.testing.assert_close(ours, plain)
    wanted = torch.autograd.grad(plain, [hidden, head])
    torch.testing.assert_close(torch.autograd.grad(ours, [hidden, head]), wanted)


def test_elastic_loss_is_the_library_models(elastic: ElasticModel) -> None:
    tokens = torch.randint(5, 4000, (2, 100), generator=torch.Generator().manual_seed(0))
    logits = elastic.model(input_ids=tokens[:, :-1], use_cache=False).logits
    plain = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(elastic.loss(tokens, FULL), plain, atol=1e-4, rtol=1e-5)


def test_gradients_reach_only_what_a_slice_uses(elastic: ElasticModel) -> None:
    tokens = torch.randint(5, 4000, (2, 33), generator=torch.Generator().manual_seed(0))
    elastic.loss(tokens, SMALLEST).backward()
    gate = elastic.weights["model.layers.3.mlp.gate_proj.weight"].grad
    assert gate is not None
    assert gate[:256].abs().sum() > 0
    assert gate[256:].abs().sum() == 0
    assert elastic.weights["model.layers.5.mlp.gate_proj.weight"].grad is None
    table = elastic.weights["model.embed_tokens_per_layer.weight"].grad
    assert table is not None
    by_layer = table.view(-1, 10, 32).abs().sum((0, 2))
    assert [bool(total > 0) for total in by_layer] == [True] * 5 + [False] * 2 + [True] * 3
    for weight in elastic.weights.values():
        weight.grad = None


def test_slices_are_sampled_from_full_to_smallest() -> None:
    sampled = [sample_slice(Random(i)) for i in range(400)]
    assert {FULL, HALF, SMALLEST} <= set(sampled)
    assert 150 < sampled.count(FULL) < 250


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [train.learning_rate(i / 1000, 1.0) for i in range(1001)]
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates.index(max(rates)) == 10
    assert rates[-1] == pytest.approx(0.03)
    assert rates[0] > 0


def test_batches_walk_through_the_stream() -> None:
    stream = torch.arange(20_000)
    position, rng = 0, Random(0)
    for _ in range(20):
        batch, position = train.batch_at(stream, position, rng)
        assert batch.shape[0] * (batch.shape[1] - 1) == train.TOKENS_PER_STEP
        assert (batch[:, 1:] == batch[:, :-1] + 1).all()


def test_kneser_ney_is_a_distribution() -> None:
    generator = torch.Generator().manual_seed(0)
    documents = [
        torch.cat([torch.tensor([BOS_ID]), torch.randint(5, 40, (40,), generator=generator)]) for _ in range(50)
    ]
    model = KneserNey(documents, order=3)
    history = documents[0][:6]
    before = model.perplexity([history]) ** -(len(history) - 1)
    after = sum(
        model.perplexity([torch.cat([history, torch.tensor([word])])]) ** -len(history) for word in range(VOCAB_SIZE)
    )
    assert after / before == pytest.approx(1.0, abs=1e-6)
    assert model.perplexity(documents) < 40


def test_kjv_print_out_is_read() -> None:
    printed = (
        "\nGenesis 1\n\n  1 In the beginning God created\nthe heaven.\n  2 And the earth.\n\nGenesis 2\n\n  1 Thus.\n"
    )
    chapters = kjv.parse(printed)
    assert [c.name for c in chapters] == ["Genesis 1", "Genesis 2"]
    assert chapters[0].verses == ("In the beginning God created the heaven.", "And the earth.")
    assert kjv.passages(chapters[0], Random(0)) == [
        "Genesis 1:1-2\n\nIn the beginning God created the heaven.\nAnd the earth.\n"
    ]


def test_wordnet_files_are_read(tmp_path: Path) -> None:
    noun = (
        "  1 licence\n"
        "00000001 05 n 01 animal 0 000 | a living organism\n"
        '00000002 05 n 02 dog 0 domestic_dog 0 001 @ 00000001 n 0000 | a barking animal; "the dog barked all night"\n'
    )
    (tmp_path / "data.noun").write_text(noun)
    (tmp_path / "index.noun").write_text("  1 licence\ndog n 1 1 @ 1 1 00000002\n")
    for part in ("verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text("")
        (tmp_path / f"index.{part}").write_text("")
    synsets = wordnet.read_synsets(tmp_path)
    dog = synsets["n00000002"]
    assert dog.words == ("dog", "domestic dog")
    assert dog.gloss == "a barking animal"
    assert dog.examples == ("the dog barked all night",)
    assert dog.hypernyms == ("n00000001",)
    assert dog.ranks == {"dog": 0}
    turns = [turn for i in range(40) for talk in wordnet.conversations(dog, synsets, Random(i)) for turn in talk]
    answers = {answer for _, answer in turns}
    assert {"A barking animal.", "The dog barked all night.", "A dog is an animal."} <= answers


def test_training_goes_on_where_a_snapshot_left_it(tmp_path: Path) -> None:
    stream = torch.randint(5, 300, (60_000,), generator=torch.Generator().manual_seed(0))
    (tmp_path / "tokenizer").mkdir()

    def run(model: ElasticModel, optimizer: torch.optim.AdamW, progress: train.Progress, steps: int) -> list[float]:
        return [train.train_step(model, optimizer, stream, progress, 1e-3, seed=0) for _ in range(steps)]

    first = ElasticModel(full_config(), seed=0)
    optimizer, progress = train.make_optimizer(first.weights, decay=0.0), train.Progress()
    losses = run(first, optimizer, progress, 2)
    for name in ("step-000000", "step-000001", "step-by-step"):
        (tmp_path / name).mkdir()
    folder = train.save_snapshot(tmp_path, first, progress, optimizer)
    assert (tmp_path / "latest").resolve() == folder
    assert (folder / "model.safetensors").is_file()
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-000001", folder.name, "step-by-step"]
    losses += run(first, optimizer, progress, 2)
    assert losses[-1] < losses[0]

    second = ElasticModel(full_config(), seed=1)
    other = train.make_optimizer(second.weights, decay=0.0)
    resumed = train.restore(tmp_path, second, other)
    assert resumed.step == 2
    assert run(second, other, resumed, 2) == pytest.approx(losses[2:], abs=1e-5)


def test_replay_is_the_elastic_models_loss(elastic: ElasticModel) -> None:
    stream = torch.randint(5, 4000, (5000,), generator=torch.Generator().manual_seed(1))
    replay = Replay(elastic.config, elastic.weights, stream)
    loss, _ = replay.text(Random(4), 0.5)
    rng = Random(4)
    tokens, _ = train.batch_at(stream, rng.randrange(len(stream) - train.TOKENS_PER_STEP - 1), rng)
    torch.testing.assert_close(loss, elastic.loss(tokens, sample_slice(rng)))

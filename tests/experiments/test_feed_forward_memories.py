"""Memories against a search by hand, and the experiment at the reduced scale."""

import math

import pytest
import torch

from cutaway import ModelConfig, Transformer, experiments, run_with_cache
from cutaway.experiments.feed_forward_memories import Config, Memories, _common_ending, _endings, _random_ending, draw, run
from cutaway.experiments.frame import Outcome, Trial

D_VOCAB, N_POS, FIRST = 13, 20, 8


@pytest.fixture
def model() -> Transformer:
    model = Transformer(ModelConfig(d_vocab=D_VOCAB, n_ctx=N_POS, n_layers=2, n_heads=2, d_model=12, d_mlp=16, act="relu"))
    model.init_weights(torch.Generator().manual_seed(0), std=0.5)
    with torch.no_grad():
        model.unembed.ln_final.weight.uniform_(0.5, 2, generator=torch.Generator().manual_seed(1))
    return model.double()


WINDOWS = torch.randint(D_VOCAB, (300, N_POS + 1), generator=torch.Generator().manual_seed(2))


def test_contexts_are_the_strongest_of_all_windows(model: Transformer) -> None:
    memories = Memories.of(model, WINDOWS, 1, n_contexts=4, first=FIRST)
    _, cache = run_with_cache(model, WINDOWS[:, :-1], "blocks.1.mlp.post")
    for key in range(16):
        strengths = {
            (value, row, pos)
            for row, of_row in enumerate(cache["post", 1][..., key].tolist())
            for pos, value in enumerate(of_row)
            if pos >= FIRST and value == max(of_row[FIRST:])
        }
        strongest = sorted(strengths, reverse=True)[:4]
        found = list(zip(memories.rows[:, key].tolist(), memories.positions[:, key].tolist(), strict=True))
        assert found == [(row, pos) for _, row, pos in strongest]
        assert memories.following[:, key].tolist() == [WINDOWS[row, pos + 1].item() for row, pos in found]


def test_keys_that_are_off_in_their_contexts_are_left_out(model: Transformer) -> None:
    kept = Memories.of(model, WINDOWS, 1, n_contexts=4, first=FIRST)
    with torch.no_grad():
        model.blocks[1].mlp.W_in.bias[[2, 5]] = -1e3
    found = Memories.of(model, WINDOWS, 1, n_contexts=4, first=FIRST)
    left = [key for key in range(16) if key not in (2, 5)]
    assert kept.keys.tolist() == list(range(16))
    assert found.keys.tolist() == left
    for name in ("positions", "rows", "following"):
        assert torch.equal(getattr(found, name), getattr(kept, name)[:, left])
    assert torch.equal(found.said, kept.said[left])
    torch.testing.assert_close(found.confidence, kept.confidence[left])
    with torch.no_grad():
        model.blocks[1].mlp.W_in.bias[:] = -1e3
    silent = Memories.of(model, WINDOWS, 1, n_contexts=4, first=FIRST)
    assert silent.keys.tolist() == silent.surest.tolist() == []
    for value in (silent.agreement, silent.agreement_of_first, silent.agreement_permuted, silent.shared_ending(WINDOWS)):
        assert math.isnan(value)


def test_values_say_what_a_stream_of_the_value_alone_would(model: Transformer) -> None:
    memories = Memories.of(model, WINDOWS, 0, n_contexts=2, first=FIRST)
    norm = model.unembed.ln_final
    values = model.blocks[0].mlp.W_out.weight.T
    with torch.no_grad():
        normed = torch.nn.functional.layer_norm(values, (12,), norm.weight, eps=0)  # without the norm's bias, which is no value's
        probs, said = model.unembed.W_U(normed).softmax(-1).max(-1)
    assert torch.equal(memories.said, said)
    torch.testing.assert_close(memories.confidence, probs)


def test_agreement_and_that_of_permuted_keys() -> None:
    following = torch.tensor([[3, 1, 2], [3, 1, 4]])
    said = torch.tensor([3, 1, 3])
    memories = Memories(torch.arange(3), following, following, following, said, torch.ones(3))
    assert memories.agreement == pytest.approx(4 / 6)
    assert memories.agreement_of_first == pytest.approx(2 / 3)
    pairs = [following[context, key] == value for context in range(2) for key in range(3) for value in said]
    assert memories.agreement_permuted == pytest.approx(sum(map(int, pairs)) / len(pairs))


def test_endings_in_common() -> None:
    windows = torch.tensor([list(range(12)), [50, 51, 52, 53, 54, 55, 56, 57, 8, 9, 10, 11]])
    rows, positions = torch.tensor([[0], [1], [0]]), torch.tensor([[10], [10], [9]])
    endings = _endings(windows, rows, positions)
    assert endings[0, 0].tolist() == [10, 9, 8, 7, 6, 5, 4, 3]
    assert _common_ending(endings) == (3 + 0) / 2
    by_chance = _random_ending(
        Memories(torch.arange(500), *(torch.zeros(40, 500, dtype=torch.long),) * 3, torch.zeros(500), torch.zeros(500)), WINDOWS, FIRST,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    p = 1 / D_VOCAB
    assert by_chance == pytest.approx(p / (1 - p), abs=0.02)  # geometric, from 20,000 pairs, and windows come again


def test_a_layer_without_keys_is_drawn() -> None:
    rates = torch.tensor([0.1, math.nan])
    arrays = {"agreement": rates, "permuted keys": rates, "untrained": rates, "shown keys": torch.zeros(0, dtype=torch.long)}
    figures = draw(Outcome(checks=(), arrays=arrays, texts={"contexts": [], "said": []}))
    assert list(figures) == ["Agreement of keys and values", "Strongest contexts of some keys"]


def test_refuses_contexts_too_short_to_compare() -> None:
    with pytest.raises(ValueError, match="first is 3; expected at least 8"):
        run(Config(first=3), Trial(seed=0))


@pytest.mark.slow
def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("feed-forward-memories")
    result = experiments.run("feed-forward-memories", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 2

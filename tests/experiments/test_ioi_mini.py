"""The sentences against their words, circuits of heads against patched runs, and the reduced experiment."""

import pytest
import torch

from cutaway import edits, experiments, run_with_cache, run_with_edits
from cutaway.experiments.frame import Trial
from cutaway.experiments.head_circuits import HeadCircuits
from cutaway.experiments.ioi_mini import Config, _accuracy, _direct, _from_end, _model, _to_giver
from cutaway.experiments.name_sentences import N_NAMES, NamePrompts, NameSentences, name_words
from cutaway.model import Transformer


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def texts() -> NameSentences:
    return NameSentences.drawn(0.3, generator=generator())


def prompts(n: int = 64, *, is_held_out: bool = True) -> NamePrompts:
    return texts().prompts(n, is_held_out=is_held_out, generator=generator(1))


def small_model() -> Transformer:
    model = _model(Config(d_model=16, n_heads=2), Trial(seed=0), n_layers=2).double()
    model.init_weights(generator(3), std=0.4)  # so that heads attend unevenly
    return model


@pytest.mark.parametrize("is_held_out", [False, True])
def test_prompts_name_a_pair_twice_the_giver_once(is_held_out: bool) -> None:
    made = prompts(is_held_out=is_held_out)
    words = name_words()
    rows = zip(made.tokens.tolist(), made.other_tokens.tolist(), made.receivers.tolist(), made.givers.tolist(), strict=True)
    for (row, other, receiver, giver), stranger in zip(rows, made.strangers.tolist(), strict=True):
        names = [token for token in row if token < N_NAMES]
        assert sorted(names) == sorted([giver, giver, receiver])
        assert texts().held_out[giver, receiver] == is_held_out
        assert sorted(token for token in other if token < N_NAMES) == sorted([giver, receiver, stranger])
        ((_, now),) = [pair for pair in zip(row, other, strict=True) if pair[0] != pair[1]]
        assert now == stranger
        assert words.decode(row).endswith(" to")
    giver_is_first = (made.tokens == made.givers[:, None]).float().argmax(1) < (
        made.tokens == made.receivers[:, None]
    ).float().argmax(1)
    assert giver_is_first[::2].all()  # of two who come in either order the giver comes first, and once more
    assert made.tokens[:8].unique(dim=0).shape[0] == 8


def test_sentences_end_as_their_names_say() -> None:
    made, seen = texts(), set()
    for row in made.sentences(1000, generator=generator(2)).tolist():
        names = [token for token in row if token < N_NAMES]
        *before, last = names
        n_people = len(set(before))
        seen.add((len(before), n_people))
        assert not any(made.held_out[a, b] for a in names for b in names)
        assert last in before
        if (len(before), n_people) == (3, 2):
            assert before.count(last) == 1
    assert seen == {(3, 2), (3, 3), (1, 1)}


def test_after_a_third_giver_either_comes() -> None:
    made = texts().sentences(4000, generator=generator(4))
    n_first = n = 0
    for row in made.tolist():
        *before, last = (token for token in row if token < N_NAMES)
        if len(set(before)) == 3:
            n += 1
            text = name_words().decode(row).split()
            pair = [before[0], before[1]] if text[0] in ("When", "Near") else [before[1], before[2]]
            assert last in pair
            n_first += last == pair[0]
    assert n / 4000 == pytest.approx(0.2, abs=0.03)
    assert n_first / n == pytest.approx(0.5, abs=0.07)  # four standard errors


def test_circuits_of_heads_are_runs_with_all_others_patched() -> None:
    model, made = small_model(), prompts(8)
    circuits = HeadCircuits(model, made.tokens, made.other_tokens, made.metric)
    names = ["blocks.0.attn.z", "blocks.1.attn.z"]
    _, cache = run_with_cache(model, made.other_tokens, names)
    logits = {"clean": model(made.tokens)}
    clean = made.metric(logits["clean"]).mean().item()
    least = made.metric(run_with_edits(model, made.tokens, [edits.patch(name, cache) for name in names])).mean().item()
    for heads in ([(0, 1)], [(0, 0), (1, 1)], [(0, 0), (0, 1), (1, 0)]):
        patched = [edits.patch(names[layer], cache, head=head) for layer, head in circuits.heads if (layer, head) not in heads]
        value = made.metric(run_with_edits(model, made.tokens, patched)).mean().item()
        assert circuits.share(heads) == pytest.approx((value - least) / (clean - least), abs=1e-9)
    assert circuits.share([]) == 0
    assert circuits.share(circuits.heads) == pytest.approx(1, abs=1e-9)

    found = circuits.enough(0.9)
    assert circuits.share(found) >= 0.9 > circuits.share(found[:-1])
    assert circuits.n_enough(0.9, found) == len(found)
    assert circuits.n_enough(2.0, circuits.heads) == len(circuits.heads)  # no order brings more than all
    alone = {head: circuits.share([head]) for head in circuits.heads}
    assert found[0] == max(alone, key=alone.__getitem__)
    orders = circuits.random_orders(20, generator=generator())
    assert all(sorted(order) == circuits.heads for order in orders)
    assert len({tuple(order) for order in orders}) > 5


def test_what_heads_add_is_their_output_through_the_unembedding() -> None:
    model, made = small_model(), prompts(4)
    _, cache = run_with_cache(model, made.tokens, ["blocks.*.attn.result", "ln_final.scale"])
    W_U = model.unembed.W_U.weight
    weight = model.unembed.ln_final.weight
    for (layer, head), (to_receiver, to_giver) in _direct(model, made).items():
        out = cache["result", layer][:, -1, head]
        out = (out - out.mean(-1, keepdim=True)) / cache["ln_final.scale"][:, -1] * weight
        logits = out @ W_U.T
        for names, value in ((made.receivers, to_receiver), (made.givers, to_giver)):
            rows = torch.arange(4)
            assert value.item() == pytest.approx((logits[rows, names] - logits[rows, made.strangers]).mean().item(), abs=1e-9)


def test_attention_to_the_giver_is_where_prompts_differ() -> None:
    model, made = small_model(), prompts(4)
    patterns = _from_end(model, made, (1, 0))
    torch.testing.assert_close(patterns.sum(-1), torch.ones(4).double())
    places = [
        next(i for i, pair in enumerate(zip(row, other, strict=True)) if pair[0] != pair[1])
        for row, other in zip(made.tokens.tolist(), made.other_tokens.tolist(), strict=True)
    ]
    assert _to_giver(model, made, (1, 0)) == pytest.approx(patterns[torch.arange(4), places].mean().item(), abs=1e-9)


def test_accuracy_counts_receivers_on_top() -> None:
    made = prompts(4)
    logits = torch.zeros(4, 1, name_words().d_vocab)
    for row in range(3):
        logits[row, 0, made.receivers[row]] = 1
    logits[3, 0, made.givers[3]] = 1
    assert _accuracy(logits, made) == 0.75


@pytest.mark.slow
def test_reduced_experiment_passes() -> None:
    experiment = experiments.experiment("ioi-mini")
    result = experiments.run("ioi-mini", experiment.scale("reduced").config)
    assert result.passed, list(result.failures())
    assert not any(check.null_passes for check in result.outcomes[0].checks)
    assert len(result.figures()) == 5
    lm = result.outcomes[0].models["ioi-mini"]
    assert lm.generate("When Mary and Tom went to the store , Tom gave a book to", max_new_tokens=1, temperature=0).endswith(
        " Mary"
    )

"""In models whose circuit is known, patched edges are that circuit; what estimates miss of it is known too."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from benchmarks.edges import known_edges, known_table, metric_of, saturated, wrong_or_missing
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.experiments.handmade import HANDMADE, Handmade
from cutaway.interp import metrics
from cutaway.interp.circuits import EdgeScores, score_edges
from cutaway.interp.heads import detect_heads
from cutaway.interp.nodes import Node
from cutaway.model import Transformer
from cutaway.runtime import seeded_generator

THRESHOLD = 0.05  # of the difference between the runs
N_ROWS = 2


def scored(make: Callable, method: str, *, is_saturated: bool, steps: int = 5) -> tuple[EdgeScores, Handmade]:
    made = saturated(make()) if is_saturated else make()
    rows = slice(0, N_ROWS)
    found = score_edges(
        made.model,
        made.tokens[rows],
        made.corrupted_tokens[rows],
        metric_of(made, rows),
        method=method,
        steps=steps,  # type: ignore[arg-type]
    )
    return found, made


@pytest.mark.parametrize(
    ("name", "is_saturated"),
    [(name, False) for name in HANDMADE if "3 layers" not in name]
    + [(name, True) for name in ("induction", "copying", "indirect object, grouped", "neuron")],
)
def test_patched_edges_are_the_circuit(name: str, is_saturated: bool) -> None:
    found, made = scored(HANDMADE[name], "exact", is_saturated=is_saturated)
    assert wrong_or_missing(found, made, THRESHOLD) == (set(), set())


@pytest.mark.parametrize(("method", "steps"), [("eap", 1), ("eap-ig-inputs", 4), ("eap-ig-activations", 4)])
def test_estimates_miss_keys_where_attention_is_saturated(method: str, steps: int) -> None:
    """Along a line too, unless one of its points happens to lie where attention goes over from one key to the other."""
    found, made = scored(HANDMADE["induction"], method, is_saturated=False, steps=steps)
    assert wrong_or_missing(found, made, THRESHOLD) == (set(), set())
    found, made = scored(HANDMADE["induction"], method, is_saturated=True, steps=steps)
    before, inducing = (f"L{layer}H{head}" for layer, head in made.circuit.heads)
    assert wrong_or_missing(found, made, THRESHOLD) == (set(), {f"{before}->{inducing}.k", f"embed->{before}.v"})


def test_a_line_of_too_few_points_is_told_by_its_sum() -> None:
    found, _ = scored(HANDMADE["induction"], "eap-ig-inputs", is_saturated=True, steps=4)
    assert "The embedding's scores sum to -" in found.summary()
    assert f"with more points they come to {found.gap:+.4g}" in found.summary()
    assert abs(found.completeness.total) < 0.01 * abs(found.gap)


def test_what_was_missed_is_told_where_it_is_tried() -> None:
    made = saturated(HANDMADE["induction"]())
    rows = slice(0, N_ROWS)
    found = score_edges(made.model, made.tokens[rows], made.corrupted_tokens[rows], metric_of(made, rows), exact_top=1000)
    agreement = found.agreement()
    assert agreement is not None
    assert set(map(str, agreement.misses)) == known_edges(made) - {
        f"L1H{next(head for layer, head in made.circuit.heads if layer)}->logits"
    }
    assert "2 misses" in found.summary()
    assert set(map(str, (each.edge for each in found.ranked(3)))) == known_edges(made)


def repeats(generator: torch.Generator, *, n_rows: int = 64, n_pos: int = 64, d_vocab: int = 64) -> Tensor:
    """Random tokens in which a stretch of 4 to 32 comes twice in a row."""
    x = torch.randint(d_vocab, (n_rows, n_pos), generator=generator)
    length = torch.randint(4, n_pos // 2 + 1, (n_rows, 1), generator=generator)
    start = length + (torch.rand(n_rows, 1, generator=generator) * (n_pos - 2 * length + 1)).long()
    pos = torch.arange(n_pos)[None]
    return x.gather(1, torch.where((start <= pos) & (pos < start + length), pos - length, pos))


def trained(seed: int, *, n_steps: int = 1600) -> Transformer:
    """A two-layer model of attention alone that has learned to go on with what comes again: random tokens, a stretch of them twice."""
    generator = seeded_generator(seed)
    shape = {"d_vocab": 64, "n_ctx": 64, "n_layers": 2, "n_heads": 4, "d_model": 64, "d_mlp": 0}
    config = ModelConfig(**shape, position="rotary", rotary_base=100.0, tie_embeddings=False)  # type: ignore[arg-type]
    model = Transformer(config, generator=generator)
    with torch.no_grad():
        model.embed.W_E.normal_(0, 0.5, generator=generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100, (n_steps - step) / (0.3 * n_steps))
    )
    for _ in range(n_steps):
        tokens = repeats(generator)
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.double().eval()


def swapped(generator: torch.Generator, *, n_rows: int = 32, n_pos: int = 40) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Different tokens, of which the last was there before, once with its follower and once with another's; and both followers."""
    tokens = torch.stack([torch.randperm(64, generator=generator)[:n_pos] for _ in range(n_rows)])
    other, rows = tokens.clone(), torch.arange(n_rows)
    places = 2 + 2 * torch.stack([torch.randperm((n_pos - 8) // 2, generator=generator)[:2] for _ in range(n_rows)])
    one, two = places.unbind(1)
    other[rows, one], other[rows, two] = tokens[rows, two], tokens[rows, one]
    tokens[:, -1] = other[:, -1] = tokens[rows, one]
    return tokens, other, tokens[rows, one + 1], tokens[rows, two + 1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_in_a_trained_model_the_previous_token_heads_edge_to_the_keys_is_first(seed: int) -> None:
    """1,600 steps of 64 sequences of 64 tokens, about a minute; all four ways to score edges name an edge of that kind first."""
    model = trained(seed)
    heads = detect_heads(model)
    before, inducing = (
        {str(Node("head", each.layer, each.head)) for each in heads.of_kind(kind, 0.5)} for kind in ("previous", "induction")
    )
    assert len(before) == 1
    assert inducing
    tokens, other_tokens, answers, wrong = swapped(seeded_generator(1))
    for method in ("exact", "eap", "eap-ig-inputs", "eap-ig-activations"):
        found = score_edges(model, tokens, other_tokens, metrics.logit_diff(answers, wrong), method=method, steps=5)
        ranked = [each.edge for each in found.ranked() if each.edge.sender.kind == each.edge.receiver.kind == "head"]
        assert str(ranked[0].sender) in before
        assert ranked[0].receiver.input == "k"
        assert str(replace(ranked[0].receiver, input=None)) in inducing


def test_the_benchmark_tells_shares_of_both_versions() -> None:
    lines = known_table({"neuron": HANDMADE["neuron"]}, {"eap": ("eap", 1)})
    assert lines[2].split()[:6] == ["neuron", "eap", "1.00", "1.00", "1.00", "1.00"]
    assert lines[-1].split() == ["mean", "of", "1", "eap", "1.00", "1.00", "1.00", "1.00"]

"""Edge scores equal what autograd finds when every receiver has a stream of its own, and patched edges where nothing bends."""

import json
from collections.abc import Callable
from functools import partial
from io import StringIO
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import replacing
from cutaway.interp import edits, metrics
from cutaway.interp.attribution import attribute_patches
from cutaway.interp.circuits import Edge, Graph, score_edges
from cutaway.interp.circuits.budget import Portion, portion_of
from cutaway.interp.refactoring import ungroup_heads
from cutaway.interp.sweep import sweep
from cutaway.model import Transformer
from interp.edge_streams import METHODS, METRIC, SMOOTH, Streams, pair, record, same, still
from interp.models import with_small_weights

MakeModel = Callable[..., Transformer]


def check_against_streams(grouped: Transformer, make_tokens: Callable, frozen: tuple[str, ...]) -> None:
    config, (tokens, other_tokens) = grouped.config, pair(make_tokens)
    for kv in ("group", "query-head"):
        model = ungroup_heads(grouped) if kv == "query-head" else grouped
        run, other = Streams(model, tokens, frozen=frozen), Streams(model, other_tokens)
        same(run.logits.detach(), model(tokens).detach())
        expected = run.scores(other)
        found = score_edges(grouped, tokens, other_tokens, METRIC, kv=kv, frozen=frozen)
        assert set(map(str, found.graph.edges())) == set(expected)
        for edge in found.graph.edges():
            same(found.scores[found.graph.place(edge)], expected[str(edge)], msg=str(edge))
        assert found.scores[~found.graph.has_edge].isnan().all()
        if config.n_kv_heads == config.n_heads:
            break


def test_scores_are_those_of_a_model_with_a_stream_for_each_receiver(
    variant: ModelConfig, make_model: MakeModel, make_tokens: Callable
) -> None:
    check_against_streams(make_model(variant), make_tokens, ())


@pytest.mark.parametrize("choices", [{}, {"norm": "rmsnorm", "block": "parallel", "n_kv_heads": 2, "is_causal": False}])
def test_held_norms_pass_gradients_on_as_a_scale(
    choices: dict, tiny_config: ModelConfig, make_model: MakeModel, make_tokens: Callable
) -> None:
    model = make_model(tiny_config.replace(**choices))
    norms = tuple(name for name in model.hook_names() if name.endswith(".scale"))
    for frozen in (norms, norms[1:-1]):
        check_against_streams(model, make_tokens, frozen)


@pytest.mark.parametrize(
    ("choices", "frozen", "kv"),
    [
        ({"norm": "none", "d_mlp": 0, "n_layers": 3}, (), "group"),
        ({"norm": "none", "position": "attention_only"}, (), "query-head"),
        ({"norm": "none", "block": "parallel", "n_kv_heads": 2}, (), "group"),
        ({"norm": "none", "position": "none", "n_kv_heads": 2}, (), "query-head"),
        ({"norm": "rmsnorm"}, ("*.scale",), "group"),
        ({}, ("blocks.*.ln1", "blocks.*.ln2", "ln_final"), "group"),
    ],
)
def test_all_methods_are_exact_where_the_rest_is_affine(
    kv: Any, choices: dict, frozen: tuple[str, ...], tiny_config: ModelConfig, make_model: MakeModel, make_tokens: Callable
) -> None:
    model = still(make_model(tiny_config.replace(act="relu", **choices)))
    tokens, other_tokens = pair(make_tokens)
    found = {
        method: score_edges(model, tokens, other_tokens, METRIC, method=method, kv=kv, frozen=frozen, steps=1).scores  # type: ignore[arg-type]
        for method in METHODS
    }
    assert found["exact"].nan_to_num().abs().max() > 0.01
    for method in METHODS:
        torch.testing.assert_close(found[method], found["exact"], rtol=0, atol=1e-9, equal_nan=True)
    queries = [i for i, node in enumerate(Graph(model.config, kv).receivers) if node.input in ("q", "k")]
    assert found["exact"][:, queries].nan_to_num().abs().max() < 1e-12  # of patterns that do not move


def test_elsewhere_the_gap_is_told(tiny_config: ModelConfig, make_model: MakeModel, make_tokens: Callable) -> None:
    model = make_model(tiny_config.replace(norm="none", d_mlp=0))
    tokens, other_tokens = pair(make_tokens)
    found = score_edges(model, tokens, other_tokens, METRIC, exact_top=1000)
    exact = score_edges(model, tokens, other_tokens, METRIC, method="exact").scores
    assert len(found.exact) == found.graph.n_edges  # there are not so many
    for edge, effect in found.exact.items():
        assert effect == pytest.approx(exact[found.graph.place(edge)].item(), abs=1e-10)
    apart = (found.scores - exact).abs()
    is_value = torch.tensor([node.input == "v" or node.kind == "logits" for node in found.graph.receivers])
    is_last = torch.tensor([node.layer == 1 or node.kind == "logits" for node in found.graph.receivers])
    assert apart[:, is_value & is_last].nan_to_num().max() < 1e-10  # from here on the model is affine
    assert apart[:, ~is_value].nan_to_num().max() > 1e-2  # through the softmax it is not
    agreement = found.agreement()
    assert agreement is not None
    assert agreement.n_tried == found.graph.n_edges
    assert 0.3 < agreement.rank_correlation < 0.9999
    assert f"rank correlation of sizes {agreement.rank_correlation:.2f}" in found.summary()


def test_a_senders_edges_sum_to_its_attribution(variant: ModelConfig, make_model: MakeModel, make_tokens: Callable) -> None:
    model, (tokens, other_tokens) = make_model(variant), pair(make_tokens)
    found = score_edges(model, tokens, other_tokens, METRIC)
    kinds = ("embed", "z", *(("mlp_out",) if variant.d_mlp else ()))
    nodes = attribute_patches(model, tokens, other_tokens, METRIC, kinds=kinds).estimates
    for node, total in zip(found.graph.senders, found.scores.nansum(1), strict=True):
        kind = {"head": "z", "mlp": "mlp_out"}.get(node.kind, node.kind)
        same(total, nodes[kind][max(node.layer, 0), node.index or 0, 0].mean(), msg=str(node))


@pytest.fixture(params=SMOOTH)
def smooth_model(request: pytest.FixtureRequest, tiny_config: ModelConfig, make_model: MakeModel) -> Transformer:
    """A model without kinks, and with weights so small that few points make an integral."""
    return with_small_weights(make_model(tiny_config.replace(**SMOOTH[request.param])))


@pytest.mark.parametrize("frozen", [(), ("*ln*",)])
def test_along_inputs_the_embeddings_edges_sum_to_the_gap(
    frozen: tuple[str, ...], smooth_model: Transformer, make_tokens: Callable
) -> None:
    if frozen and smooth_model.config.norm == "none":
        frozen = ()
    (tokens, other_tokens), base = pair(make_tokens), record(smooth_model, make_tokens())
    scales = replacing({name: x for name, x in base.items() if name.endswith(".scale") and frozen})
    gap = (METRIC(smooth_model(other_tokens, hooks=scales)) - METRIC(smooth_model(tokens))).mean().item()
    ask = partial(score_edges, smooth_model, tokens, other_tokens, METRIC, method="eap-ig-inputs", frozen=frozen)
    off = {steps: abs(ask(steps=steps).scores[0].nansum().item() - gap) for steps in (2, 8, 64)}
    assert abs(gap) > 0.01
    assert off[64] < 5e-3 * abs(gap)
    assert off[64] < off[8] / 30 < off[2] / 100  # the middles of equal parts are off by about 1 / steps^2


def test_along_activations_a_senders_edges_sum_to_its_patch(smooth_model: Transformer, make_tokens: Callable) -> None:
    tokens, other_tokens = pair(make_tokens)
    other, patches = record(smooth_model, other_tokens), []
    for node in Graph(smooth_model.config).senders:
        name = {"embed": "embed", "head": f"blocks.{node.layer}.attn.z", "mlp": f"blocks.{node.layer}.mlp_out"}[node.kind]
        value = other[name] if node.index is None else other[name][:, :, node.index]
        patches.append([edits.replace(name, value.clone(), head=node.index)])
    effects = sweep(smooth_model, tokens, [*patches, []], METRIC)
    exact = (effects[:-1] - effects[-1]).mean(1)
    ask = partial(score_edges, smooth_model, tokens, other_tokens, METRIC, method="eap-ig-activations")
    off = {steps: (ask(steps=steps).scores.nansum(1) - exact).abs().max().item() for steps in (2, 20)}
    assert exact.abs().min() > 1e-4
    assert off[20] < 1e-3 * exact.abs().max()
    assert off[20] < off[2] / 50


def test_edges_into_a_group_are_those_into_its_heads_together(
    tiny_config: ModelConfig, make_model: MakeModel, make_tokens: Callable
) -> None:
    """To first order, where they do not act on each other."""
    model = make_model(tiny_config.replace(n_kv_heads=2, position="rotary", rotary_dim=4, norm="rmsnorm"))
    group, apart = (score_edges(model, *pair(make_tokens), METRIC, kv=kv) for kv in ("group", "query-head"))  # type: ignore[arg-type]
    for sender in ("embed", "L0H2", "mlp0"):
        for each in ("k", "v"):
            heads = [apart.score(Edge(apart.graph.parse(f"{sender}->logits").sender, node)) for node in apart.graph.receivers
                     if (node.layer, node.input) == (1, each) and node.index in (2, 3)]  # fmt: skip
            (together,) = [group.score(edge) for edge in group.graph.edges() if str(edge) == f"{sender}->L1G1.{each}"]
            assert len(heads) == 2
            assert together == pytest.approx(sum(heads), abs=1e-10)


@pytest.mark.parametrize("method", METHODS[:3])
def test_rows_and_positions_in_portions_are_the_same(
    method: Any, monkeypatch: pytest.MonkeyPatch, tiny_config: ModelConfig, make_model: MakeModel, make_tokens: Callable
) -> None:
    model = make_model(tiny_config.replace(n_kv_heads=2))
    tokens, other_tokens = make_tokens(batch=3), make_tokens(batch=3, seed=2)
    metric = metrics.logit_diff([3, 4, 5], [5, 6, 7])
    ask = partial(score_edges, model, tokens, other_tokens, metric, method=method, steps=2, frozen="blocks.1.ln1")
    whole = ask()
    by_row = [
        score_edges(
            model, tokens[[i]], other_tokens[[i]], metrics.logit_diff(3 + i, 5 + i), method=method, steps=2, frozen="blocks.1.ln1"
        )
        for i in range(3)
    ]
    stacked = torch.stack([each.scores for each in by_row])
    same(whole.scores, stacked.mean(0))
    torch.testing.assert_close(whole.errors, stacked.std(0) / 3**0.5, rtol=1e-6, atol=1e-10, equal_nan=True)
    assert by_row[0].errors.isnan().all()
    for portion in (Portion(2, 1, 100), Portion(1, 3, 2), Portion(3, 1, 1)):
        monkeypatch.setattr("cutaway.interp.circuits.pair.portion_of", lambda *_, portion=portion, **__: portion)
        found = ask()
        same(found.scores, whole.scores)
        same(found.base, whole.base)
        same(found.other, whole.other)


def test_portions_follow_the_budget(tiny_model: Transformer) -> None:
    graph = Graph(tiny_model.config)
    ask = partial(portion_of, tiny_model, graph, n_rows=1000, n_pos=12)
    sizes = [ask(memory_gib=memory_gib) for memory_gib in (0.002, 0.02, 0.2)]
    assert [each.n_rows for each in sizes] == sorted({each.n_rows for each in sizes})
    assert all(1 <= each.n_rows <= 1000 for each in sizes)
    assert ask(memory_gib=10.0).n_rows == 1000
    assert portion_of(tiny_model, graph, n_rows=2, n_pos=12, memory_gib=0.2).n_runs > 100
    with pytest.raises(ValueError, match=r"one row takes .* GiB and memory_gib is 1e-05: give more memory, or shorter prompts"):
        ask(memory_gib=1e-5)
    with pytest.raises(ValueError, match="all 1000 rows, which a metric that is a plain function reads at once, take"):
        ask(memory_gib=0.002, is_one=True)


def test_rows_of_different_length(tiny_model: Transformer, make_tokens: Callable) -> None:
    tokens, other_tokens = make_tokens(), make_tokens(seed=2)
    for method in ("eap", "eap-ig-activations", "exact"):
        found = score_edges(tiny_model, tokens, other_tokens, metrics.log_prob(4), method=method, steps=1, lengths=[9, 7])  # type: ignore[arg-type]
        rows = [
            score_edges(tiny_model, tokens[[i], :n], other_tokens[[i], :n], metrics.log_prob(4), method=method, steps=1).scores  # type: ignore[arg-type]
            for i, n in enumerate([9, 7])
        ]
        same(found.scores, torch.stack(rows).mean(0))


def test_a_metric_may_be_any_function(tiny_model: Transformer, make_tokens: Callable) -> None:
    tokens, other_tokens = pair(make_tokens)

    def difference(logits: Tensor) -> Tensor:
        return logits[:, -1, 3] - logits[:, -1, 5]

    for method in ("eap", "eap-ig-activations", "exact"):
        found, expected = (
            score_edges(tiny_model, tokens, other_tokens, metric, method=method, steps=2).scores  # type: ignore[arg-type]
            for metric in (difference, METRIC)
        )
        same(found, expected)


def test_runs_that_are_the_same_score_nothing(tiny_model: Transformer, tokens: Tensor) -> None:
    for method in METHODS:
        found = score_edges(tiny_model, tokens, tokens, METRIC, method=method)  # type: ignore[arg-type]
        assert found.scores[found.graph.has_edge].abs().max() == 0
        assert "edges" in found.summary()


def test_the_largest_are_tried(tiny_model: Transformer, make_tokens: Callable) -> None:
    told: list[tuple[int, int]] = []
    found = score_edges(
        tiny_model, *pair(make_tokens), METRIC, exact_top=7, progress=lambda n, n_all: told.append((n, n_all)), threshold=0.1
    )
    exact = score_edges(tiny_model, *pair(make_tokens), METRIC, method="exact")
    by_score = sorted(found.graph.edges(), key=lambda edge: -abs(found.score(edge)))
    assert set(found.exact) == set(by_score[:7])
    assert all(effect == pytest.approx(exact.score(edge), abs=1e-10) for edge, effect in found.exact.items())
    ranked = found.ranked()
    assert len(ranked) == found.graph.n_edges == len({each.edge for each in ranked})
    assert [abs(each.exact) for each in ranked[:7]] == sorted((abs(each) for each in found.exact.values()), reverse=True)
    assert [each.edge for each in ranked[7:]] == by_score[7:]
    assert found.ranked(9) == ranked[:9]
    assert [n for n, _ in told] == sorted(n for n, _ in told)
    assert told[0] == (2, 2 + 7 * 2)
    assert told[-1] == (16, 16)
    least = 0.1 * abs(found.gap)
    agreement = found.agreement()
    assert agreement is not None
    assert set(agreement.misses) == {edge for edge, effect in found.exact.items() if abs(effect) >= least > abs(found.score(edge))}


@torch.no_grad()
def test_a_result_is_shown_and_saved(tmp_path, tiny_model: Transformer, make_tokens: Callable) -> None:
    found = score_edges(tiny_model, *pair(make_tokens), METRIC, exact_top=3, method="eap-ig-inputs", frozen="ln_final")
    saved = json.loads(found.to_json())
    assert saved["method"] == "eap-ig-inputs"
    assert saved["steps"] == 5
    assert saved["frozen_norms"] == ["ln_final.scale"]
    assert saved["scores"][-1][0] is None  # the last MLP writes after that head reads
    assert saved["scores"][0][0] == pytest.approx(found.score("embed->L0H0.q"))
    assert len(saved["exact"]) == saved["agreement"]["n_tried"] == 3
    console = Console(file=StringIO(), width=80, color_system=None)
    found.show(console)
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "The strongest edges" in map(str.strip, shown)
    assert max(map(len, shown[2:])) <= 80
    assert "Hanna et al. 2024" in found.report(tmp_path / "found.html").read_text(encoding="utf-8")
    assert len(found.figures()) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "acdc"}, "method is 'acdc'; expected one of eap, eap-ig-inputs, eap-ig-activations, exact"),
        ({"kv": "head"}, "kv is 'head'"),
        ({"steps": 0}, "1 at least"),
        ({"exact_top": 0}, "0 edges are to be tried; expected 1 at least"),
        ({"exact_top": 3, "method": "exact"}, "ask for one of the two"),
        ({"frozen": "ln_last"}, "ln_final.scale"),
        ({"lengths": [9]}, "expected one for each of the 2 rows, 1 to 9"),
        ({"lengths": [9, 10]}, "expected one for each of the 2 rows, 1 to 9"),
        ({"lengths": [9, 9], "metric": lambda logits: logits[:, -1, 0]}, "give a metric of cutaway.metrics"),
        ({"metric": metrics.logit(99)}, "there is no token 99"),
        ({"metric": lambda logits: logits}, "expected one number a row"),
        ({"memory_gib": 1e-6}, "one row takes"),
        ({"other_tokens": torch.zeros(2, 7, dtype=torch.long)}, "the runs have 9 and 7 tokens"),
        ({"other_tokens": torch.zeros(3, 9, dtype=torch.long)}, "the runs have 2 and 3 rows"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_what_cannot_be_scored_is_refused(options: dict, said: str, tiny_model: Transformer, tokens: Tensor) -> None:
    given = {"other_tokens": tokens, "metric": METRIC, **options}
    with pytest.raises(ValueError, match=said):
        score_edges(tiny_model, tokens, given.pop("other_tokens"), given.pop("metric"), **given)


def test_nothing_is_left_on_the_model(tiny_model: Transformer, make_tokens: Callable) -> None:
    tiny_model.train()
    for method in METHODS[:3]:
        score_edges(tiny_model, *pair(make_tokens), METRIC, method=method, steps=1)  # type: ignore[arg-type]
    assert tiny_model.training
    assert all(weight.grad is None and weight.requires_grad for weight in tiny_model.parameters())

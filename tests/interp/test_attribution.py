"""Attribution patching equals patches where nothing bends, and says how far it is off where something does."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.experiments.handmade import HANDMADE
from cutaway.hooks import Hooks, recording
from cutaway.interp import metrics
from cutaway.interp.attribution import ActivationNode, AttributionPatching, attribute_patches, rank_correlation
from cutaway.interp.refactoring import ungroup_heads
from cutaway.model import Transformer

MakeModel = Callable[..., Transformer]

METRIC = metrics.logit_diff(3, 5)
same = partial(torch.testing.assert_close, rtol=0, atol=1e-10)  # float64: logits of size 1 to 10
HEADS = ("z", "q", "k", "v", "pattern")


def record(model: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    hooks, found = recording("*")
    with torch.no_grad():
        model(tokens, hooks=hooks)
    return found


def name_of(node: ActivationNode) -> str:
    if node.kind == "embed":
        return "embed"
    part = {"neuron": "mlp.post", **{kind: f"attn.{kind}" for kind in HEADS}}.get(node.kind, node.kind)
    return f"blocks.{node.layer}.{part}"


def moved_by(node: ActivationNode, base: Tensor, other: Tensor, share: float = 1.0) -> Tensor:
    """The activation with a share of the node's change in it."""
    x, change = base.clone(), share * (other - base)
    pos = slice(None) if node.pos is None else node.pos
    if node.kind == "pattern":
        x[:, node.unit, pos] += change[:, node.unit, pos]
    elif node.unit is not None:  # a head or a neuron
        x[:, pos, node.unit] += change[:, pos, node.unit]
    else:
        x[:, pos] += change[:, pos]
    return x


def effect(model: Transformer, tokens: Tensor, node: ActivationNode, base: dict, other: dict, share: float = 1.0) -> Tensor:
    """What the metric gains with a share of a node's change, by a plain hook."""
    name = name_of(node)
    new = moved_by(node, base[name], other[name], share)
    with torch.no_grad():
        return METRIC(model(tokens, hooks=Hooks({name: lambda _x, _name: new}))) - METRIC(base["logits"])


@pytest.fixture
def affine_end(tiny_config: ModelConfig, make_model: MakeModel) -> Transformer:
    """A model whose last layer's attention reaches the logits through sums and matrices alone."""
    return make_model(replace(tiny_config, norm="none", d_mlp=0, position="rotary", rotary_dim=4))


@pytest.mark.parametrize("by_position", [False, True])
def test_estimates_are_exact_where_the_rest_is_affine(by_position: bool, affine_end: Transformer, make_tokens: Callable) -> None:
    """Queries and keys too, whose patterns are computed anew: by a single position, or by all at once."""
    tokens, other_tokens = make_tokens(), make_tokens(seed=2)
    found = attribute_patches(
        affine_end, tokens, other_tokens, METRIC, kinds=(*HEADS, "attn_out", "resid_post"), by_position=by_position
    )
    base, other = record(affine_end, tokens), record(affine_end, other_tokens)
    for kind, estimates in found.estimates.items():
        for unit in range(estimates.shape[1]):
            for pos in range(9) if by_position else [None]:
                node = ActivationNode(kind, 1, unit if kind in HEADS else None, pos)
                same(estimates[1, unit, pos or 0], effect(affine_end, tokens, node, base, other), msg=str(node))


def test_without_the_softmax_queries_and_keys_are_not(affine_end: Transformer, make_tokens: Callable) -> None:
    tokens, other_tokens = make_tokens(), make_tokens(seed=2)
    plain = attribute_patches(affine_end, tokens, other_tokens, METRIC, kinds=("q", "k", "z"), qk_fix=False)
    base, other = record(affine_end, tokens), record(affine_end, other_tokens)
    off = {
        kind: max(
            (plain.estimates[kind][1, head, 0] - effect(affine_end, tokens, ActivationNode(kind, 1, head), base, other))
            .abs()
            .max()
            .item()
            for head in range(4)
        )
        for kind in ("q", "k", "z")
    }
    assert off["q"] > 1e-3
    assert off["k"] > 1e-3
    assert off["z"] < 1e-10


def test_estimates_are_the_slope_of_a_patch(variant: ModelConfig, make_model: MakeModel, make_tokens: Callable) -> None:
    """The derivative by the share that is patched, from a central difference; keys and values of one query head alone."""
    grouped = make_model(variant)
    model = grouped if variant.n_kv_heads == variant.n_heads else ungroup_heads(grouped)
    tokens, other_tokens = make_tokens(), make_tokens(seed=2)
    kinds: Sequence = (*HEADS, "embed", "attn_out", "resid_pre", *(("mlp_out", "neuron") if variant.d_mlp else ()))
    found = attribute_patches(grouped, tokens, other_tokens, METRIC, kinds=kinds, qk_fix=False)
    base, other = record(model, tokens), record(model, other_tokens)
    step = 1e-5  # the difference is off by about step^2 and by rounding / step
    for kind in kinds:
        node = ActivationNode(kind, 0, 1 if kind in HEADS or kind == "neuron" else None)
        ends = [effect(model, tokens, node, base, other, share) for share in (step, -step)]
        torch.testing.assert_close(
            found.estimates[kind][0, node.unit or 0, 0], (ends[0] - ends[1]) / (2 * step), rtol=1e-6, atol=1e-7
        )


def test_what_is_tried_is_what_a_hook_finds(variant: ModelConfig, make_model: MakeModel, make_tokens: Callable) -> None:
    grouped = make_model(variant)
    model = grouped if variant.n_kv_heads == variant.n_heads else ungroup_heads(grouped)
    tokens, other_tokens = make_tokens(), make_tokens(seed=2)
    kinds: Sequence = (*HEADS, "embed", "resid_post", *(("mlp_out", "neuron") if variant.d_mlp else ()))
    found = attribute_patches(grouped, tokens, other_tokens, METRIC, kinds=kinds, by_position=True, exact_top=2)
    base, other = record(model, tokens), record(model, other_tokens)
    assert len(found.exact) == 2 * len(kinds)
    for node, gained in found.exact.items():
        same(gained, effect(model, tokens, node, base, other), msg=str(node))
    for kind in kinds:
        tried = {node for node in found.exact if node.kind == kind}
        best = sorted(found.ranked(kind), key=lambda each: -abs(each.estimate))[:2]
        assert tried == {each.node for each in best}


def shrinking(errors: Sequence[Tensor]) -> None:
    """Sums over the middles of four times as many parts are 16 times nearer."""
    few, many = (error.abs().max().item() for error in errors)
    assert few > 1e-9
    assert many == pytest.approx(few / 16, rel=0.2)


def test_integrated_gradients_of_the_inputs_sum_to_the_difference(tiny_model: Transformer, make_tokens: Callable) -> None:
    tokens, other_tokens = make_tokens(), make_tokens(seed=2)
    base, other = (METRIC(record(tiny_model, each)["logits"]) for each in (tokens, other_tokens))
    errors = []
    for steps in (64, 256):
        found = attribute_patches(tiny_model, tokens, other_tokens, METRIC, kinds=("embed",), along="inputs", steps=steps)
        errors.append(found.estimates["embed"][0, 0, 0] - (other - base))
        assert found.completeness is not None
        assert found.completeness.total == pytest.approx(found.estimates["embed"].mean().item(), abs=1e-10)
        assert found.completeness.difference == pytest.approx((other - base).mean().item(), abs=1e-10)
    shrinking(errors)


def test_integrated_gradients_of_an_activation_sum_to_its_patch(tiny_model: Transformer, make_tokens: Callable) -> None:
    tokens, other_tokens = make_tokens(), make_tokens(seed=2)
    base, other = record(tiny_model, tokens), record(tiny_model, other_tokens)
    whole = {
        kind: METRIC(tiny_model(tokens, hooks={name: lambda _x, _n, name=name: other[name]})) - METRIC(base["logits"])
        for kind, name in (("z", "blocks.0.attn.z"), ("q", "blocks.0.attn.q"))
    }
    errors: dict[str, list[Tensor]] = {"z": [], "q": []}
    for steps in (24, 96):
        found = attribute_patches(
            tiny_model, tokens, other_tokens, METRIC, kinds=("z", "q"), along="activations", steps=steps, by_position=True
        )
        for kind in errors:
            errors[kind].append(found.estimates[kind][0].sum((0, 1)) - whole[kind])  # type: ignore[index]
    for each in errors.values():
        shrinking(each)


@torch.no_grad()
def test_rows_of_different_length_are_each_their_own(tiny_model: Transformer, make_tokens: Callable) -> None:
    tokens, other_tokens = make_tokens(), make_tokens(n_pos=8, seed=2)
    pairs = [[(0, 0), (5, 6), (7, 8)], [(1, 1), (3, 2), (7, 6)]]
    options = {"kinds": (*HEADS, "resid_post"), "by_position": True, "exact_top": 3}
    together = attribute_patches(
        tiny_model,
        tokens,
        other_tokens,
        METRIC,
        pairs=pairs,
        lengths=[9, 7],
        other_lengths=[8, 8],
        **{**options, "exact_top": None},
    )
    for row, length in enumerate((9, 7)):
        alone = attribute_patches(
            tiny_model, tokens[row : row + 1, :length], other_tokens[row : row + 1], METRIC, pairs=[pairs[row]], **options
        )
        for kind, estimates in alone.estimates.items():
            same(together.estimates[kind][:, :, :length, row], estimates[..., 0])
        assert {node.pos for node in alone.exact} <= {here for _, here in pairs[row]}


def test_a_circuit_made_by_hand_is_found_by_gradients() -> None:
    handmade = HANDMADE["induction"]()
    rows = slice(0, 4)
    metric = metrics.logit_diff(handmade.answers[rows], handmade.wrong_answers[rows])
    found = attribute_patches(
        handmade.model, handmade.tokens[rows], handmade.corrupted_tokens[rows], metric, kinds=HEADS, exact_all=True
    )
    circuit = {(head.layer, head.head) for head in handmade.circuit.heads}
    estimates = found.estimates["z"].mean(-1)[..., 0]
    outside = torch.ones_like(estimates, dtype=torch.bool)
    for place in circuit:
        outside[place] = False
        assert abs(estimates[place]) > 0.5
    assert estimates[outside].abs().max() < 1e-12
    before, inducing = sorted(circuit)
    # The last head's output is added to the logits; the first one's has to pass a softmax that is saturated.
    assert estimates[inducing].item() == pytest.approx(found.gap, rel=1e-2)
    assert abs(estimates[before].item()) < abs(found.gap) / 5
    assert found.exact[ActivationNode("z", *before)].mean().item() == pytest.approx(found.gap, rel=1e-2)
    along = attribute_patches(
        handmade.model, handmade.tokens[rows], handmade.corrupted_tokens[rows], metric, kinds=("z",), along="activations", steps=64
    )
    assert along.estimate(ActivationNode("z", *before)) == pytest.approx(found.gap, rel=2e-2)
    agreement = {each.kind: each for each in found.agreement()}
    assert agreement["z"].n_tried == agreement["z"].n_nodes == 8
    assert not agreement["z"].misses
    keys = found.ranked("k")[0]
    assert (keys.node.layer, keys.node.unit) == inducing


def by_hand(estimates: list[float], exact: dict[int, float]) -> AttributionPatching:
    """The result for the heads of one layer, in a model that goes from 0 to 10."""
    return AttributionPatching(
        estimates={"z": torch.tensor(estimates, dtype=torch.float64)[None, :, None, None]},
        exact={ActivationNode("z", 0, head): torch.tensor([value], dtype=torch.float64) for head, value in exact.items()},
        base=torch.zeros(1, dtype=torch.float64),
        other=torch.full((1,), 10.0, dtype=torch.float64),
        by_position=False,
        fixed=(),
        along=None,
        steps=None,
        completeness=None,
        threshold=0.1,
    )


def test_how_estimates_agree_is_counted() -> None:
    found = by_hand([5.0, -3.0, 2.0, 0.1], {0: 4.0, 1: 0.5, 2: -6.0, 3: 1.0})
    (agreement,) = found.agreement()
    assert agreement.false_positives == (ActivationNode("z", 0, 1),)  # 3 estimated, 0.5 found, and 1 counts
    assert agreement.misses == (ActivationNode("z", 0, 3),)
    assert agreement.rank_correlation == pytest.approx(0.0)  # ranks 3 2 1 0 and 2 0 3 1: 1 - 6 * 10 / (4 * 15)
    assert [each.node.unit for each in found.ranked()] == [2, 0, 3, 1]
    assert agreement.wrong_sign == (
        ActivationNode("z", 0, 1),
        ActivationNode("z", 0, 2),
    )  # -3 and 0.5, 2 and -6: their sizes alone agree
    assert "z, 4 of 4 tried: rank correlation of sizes 0.00" in found.summary()
    assert "1 false positive (L0H1.z), 1 miss (L0H3.z), 2 wrong signs (L0H1.z, L0H2.z)." in found.summary()
    assert found.to_dict()["agreement"][0]["wrong_sign"] == ["L0H1.z", "L0H2.z"]
    kinds = {"z": found.estimates["z"], "v": 10 * found.estimates["z"]}
    exact = found.exact | {ActivationNode("v", 0, unit): 10 * found.estimates["z"][0, unit, 0] for unit in range(4)}
    both = replace(found, estimates=kinds, exact=exact).summary()
    said = "8 nodes of 2 kinds tried: rank correlation of sizes 0.00 (z) to 1.00 (v), false positives 1, misses 1, wrong signs 2."
    assert said in both
    assert "L0H3.z" not in both, "the names are left to the table"
    partly = by_hand([5.0, -3.0, 2.0, 0.1], {0: 4.0})
    assert "z, 1 of 4 tried: 0 false positives, 0 misses, 0 wrong signs among those tried." in partly.summary()
    (some,) = partly.agreement()
    assert (some.n_tried, some.n_nodes, some.rank_correlation) == (1, 4, None)


def test_effects_of_the_size_of_rounding_are_none() -> None:
    """Nodes without any are left out, or all that a prompt does not change would agree; those with one by one account stay."""
    (found,) = by_hand([5.0, 3.0, 1e-16, 3e-16], {0: 4.0, 1: 2e-16, 2: 0.0, 3: 7.0}).agreement()
    assert found.n_tried == 4
    assert found.rank_correlation == pytest.approx(-0.5)  # ranks 2 1 0 and 1 0 2: 1 - 6 * 6 / (3 * 8)


def test_rank_correlation_is_spearmans() -> None:
    assert rank_correlation([1, 2, 3], [10, 20, 15]) == pytest.approx(0.5)  # 1 - 6 * 2 / (3 * 8)
    assert rank_correlation([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))  # equal ones share a rank
    assert rank_correlation([1, 1], [1, 2]) is None
    assert rank_correlation([], []) is None


def test_a_result_is_shown_and_saved(tmp_path, tiny_model: Transformer, make_tokens: Callable) -> None:
    found = attribute_patches(
        tiny_model, make_tokens(), make_tokens(seed=2), METRIC, kinds=("z", "k", "resid_pre", "neuron", "embed"),
        by_position=True, exact_top=3, along="inputs", steps=2,
    )  # fmt: skip
    saved = json.loads(found.to_json())
    assert saved["along"] == "inputs"
    assert saved["completeness"]["difference"] == pytest.approx(found.gap)
    assert len(saved["exact"]) == 15
    assert saved["estimates"]["z"][1][2][3] == pytest.approx(found.estimate(ActivationNode("z", 1, 2, 3)))
    console = Console(file=StringIO(), width=80, color_system=None)
    found.show(console)
    shown = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "Estimates beside exact effects" in map(str.strip, shown)
    assert max(map(len, shown[2:])) <= 80
    assert "Sundararajan et al. 2017" in found.report(tmp_path / "found.html").read_text(encoding="utf-8")
    assert len(found.figures()) == 5  # no map of neurons


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"kinds": ("heads",)}, "no nodes of kind 'heads'"),
        ({"kinds": ()}, "nothing to patch"),
        ({"along": "the way"}, "expected inputs, activations or None"),
        ({"steps": 0}, "1 step at least"),
        ({"exact_top": 0}, "0 nodes are to be tried; expected 1 at least"),
    ],
)
@pytest.mark.usefixtures("without_type_checks")
def test_what_cannot_be_estimated_is_refused(options: dict, said: str, tiny_model: Transformer, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match=said):
        attribute_patches(tiny_model, tokens, tokens, METRIC, **options)


def test_kinds_that_the_model_lacks_are_refused(make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor) -> None:
    model = make_model(replace(tiny_config, d_mlp=0))
    for kind, said in (("neuron", "no MLPs"), ("mlp_out", "no activation of a layer is called 'mlp_out'")):
        with pytest.raises(ValueError, match=said):
            attribute_patches(model, tokens, tokens, METRIC, kinds=(kind,))  # type: ignore[arg-type]


def test_nothing_is_left_on_the_model(tiny_model: Transformer, make_tokens: Callable) -> None:
    tiny_model.train()
    attribute_patches(tiny_model, make_tokens(), make_tokens(seed=2), METRIC, exact_top=1)
    assert tiny_model.training
    assert all(weight.grad is None and weight.requires_grad for weight in tiny_model.parameters())


def test_without_kinds_those_that_a_model_has_are_taken(variant: ModelConfig, make_model: MakeModel, make_tokens: Callable) -> None:
    found = attribute_patches(make_model(variant), make_tokens(), make_tokens(seed=2), METRIC)
    assert set(found.estimates) == {*HEADS, *(["mlp_out"] if variant.d_mlp else [])}

"""A sweep gives the numbers of one whole run for each cell, whatever it reuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.interp.models import VARIANTS, small_model, two_runs
from torch import Tensor

from cutaway import edits, metrics, plan_sweep, run_with_cache, run_with_edits, sweep
from cutaway.interp.edits import Edit
from cutaway.interp.metrics import Metric
from interp.sweep_cells import TOLERANCE, cells


def own_metric(logits: Tensor) -> Tensor:
    """A function that does not say what it reads."""
    return logits[:, -2:].square().mean((1, 2))


METRICS: dict[str, Callable[[Tensor, Tensor], Metric | Callable[[Tensor], Tensor]]] = {
    "logit_diff": lambda tokens, logits: metrics.logit_diff(3, [7, 8]),
    "log_prob": lambda tokens, logits: metrics.log_prob(3, pos=6),
    "loss": lambda tokens, logits: metrics.loss(tokens, first=2),
    "kl": lambda tokens, logits: metrics.kl(logits, pos=None),
    "own": lambda tokens, logits: own_metric,
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_sweep_equals_one_run_for_each_cell(variant: str, metric: str) -> None:
    model = small_model(variant)
    tokens, corrupted = two_runs()
    variants = cells(model, corrupted)[:: 3 if metric == "logit_diff" else 7]
    read = METRICS[metric](tokens, model(tokens).detach())
    plan = plan_sweep(model, tokens, variants, read)
    scores = plan.run()
    differences = torch.stack([(scores[i] - plan.naive(i)).abs().max() for i in range(len(variants))])
    worst = int(differences.argmax())
    assert differences[worst] < TOLERANCE, [str(edit) for edit in variants[worst]]
    assert scores.shape == (len(variants), 2)
    assert scores.std() > 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_sweep_from_an_edited_base_run(variant: str) -> None:
    model = small_model(variant)
    tokens, corrupted = two_runs()
    noise = torch.randn(2, 9, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    variants = cells(model, corrupted)[::6]
    for base in (
        [edits.add("embed", noise)],
        [edits.scale("blocks.1.attn_out", 0.3), edits.zero("blocks.1.attn.z", pos=2), edits.scale("logits", 2.0)],
    ):
        plan = plan_sweep(model, tokens, [[], *variants], metrics.logit_diff(3, 7), base_edits=base)
        scores = plan.run()
        naive = torch.stack([plan.naive(i) for i in range(len(variants) + 1)])
        torch.testing.assert_close(scores, naive, atol=TOLERANCE, rtol=0)
        unedited = metrics.logit_diff(3, 7)(run_with_edits(model, tokens, base))
        torch.testing.assert_close(scores[0], unedited, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "bidirectional"])
def test_rows_of_different_length_are_as_alone(variant: str) -> None:
    """A shorter row, filled up on the right, has the scores that it has without its batch mates."""
    model = small_model(variant)
    tokens, corrupted = two_runs()
    _, cache = run_with_cache(model, corrupted)
    lengths = [9, 6]
    variants = [[edits.zero(f"blocks.{layer}.attn.z", head=head, pos=-1)] for layer in range(3) for head in range(4)]
    variants += [[edits.patch(f"blocks.{layer}.resid_pre", cache, pos=pos)] for layer in range(3) for pos in (2, 4, 5)]
    scores = sweep(model, tokens, variants, metrics.logit_diff(3, 7), lengths=lengths)
    for row, length in enumerate(lengths):
        _, own_cache = run_with_cache(model, corrupted[[row], :length])
        alone = [[edits.zero(each.name, head=each.head, pos=-1)] for (each,) in variants[:12]]
        alone += [[edits.patch(each.name, own_cache, pos=each.pos)] for (each,) in variants[12:]]
        for i, edited in enumerate(alone):
            expected = metrics.logit_diff(3, 7)(run_with_edits(model, tokens[[row], :length], edited))
            torch.testing.assert_close(scores[i, [row]], expected, atol=TOLERANCE, rtol=0)


def test_a_sweep_against_hooks_written_out() -> None:
    """The oracle is a plain hook and a plain forward pass, none of the edits' own code."""
    model = small_model("rotary, grouped, gated")
    tokens, corrupted = two_runs()
    _, cache = run_with_cache(model, corrupted)
    places = [(layer, head, pos) for layer in range(3) for head in range(4) for pos in (4, 8)]
    variants = [[edits.patch(f"blocks.{layer}.attn.z", cache, head=head, pos=pos)] for layer, head, pos in places]
    scores = sweep(model, tokens, variants, metrics.logit_diff(3, 7))
    for i, (layer, head, pos) in enumerate(places):

        def put(z: Tensor, name: str, head: int = head, pos: int = pos) -> Tensor:
            z = z.clone()
            z[:, pos, head] = cache[name][:, pos, head]
            return z

        logits = model(tokens, hooks={f"blocks.{layer}.attn.z": put})
        torch.testing.assert_close(scores[i], logits[:, -1, 3] - logits[:, -1, 7], atol=TOLERANCE, rtol=0)


def test_float32_is_as_near_as_it_can_be() -> None:
    model = small_model().float()
    tokens, corrupted = two_runs()
    variants = [
        [edits.patch(f"blocks.{layer}.attn.z", run_with_cache(model, corrupted)[1], head=head)]
        for layer in range(3)
        for head in range(4)
    ]
    plan = plan_sweep(model, tokens, variants, metrics.logit_diff(3, 7))
    assert plan.verify(plan.run(), 12) <= 1e-5 * float(model(tokens).detach().abs().max())


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: edits.zero("blocks.1.attn.zz"), "computes no 'blocks.1.attn.zz'; the nearest names are blocks.1.attn.z"),
        (lambda: edits.zero("blocks.1.resid_post", pos=9), "there is no pos 9; there are 9, 0 to 8"),
        (lambda: edits.zero("blocks.1.attn.z", head=4), "there is no head 4; there are 4, 0 to 3"),
        (lambda: edits.replace("blocks.1.resid_post", torch.zeros(31).double()), "the value has shape (31,); expected (2, 9, 32)"),
        (lambda: edits.replace("blocks.1.resid_post", torch.zeros(32)), "the value is float32 and the activation float64"),
        (lambda: edits.replace("blocks.1.attn.pattern", torch.ones(9).double(), pos=3), "writes above the causal mask"),
    ],
)
def test_bad_edits_are_one_sentence(wrong: Callable[[], Edit], said: str) -> None:
    model = small_model()
    tokens, _ = two_runs()
    for run in (
        lambda edit: run_with_edits(model, tokens, [edit]),
        lambda edit: sweep(model, tokens, [[edit]], metrics.logit_diff(3, 7)),
    ):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            run(wrong())
        assert said in str(caught.value)


def test_resid_mid_of_a_parallel_block_is_refused_with_the_reason() -> None:
    tokens, _ = two_runs()
    with pytest.raises(ValueError, match="side by side in a parallel block"):
        run_with_edits(small_model("parallel"), tokens, [edits.zero("blocks.1.resid_mid")])


def test_lengths_that_do_not_fit_are_refused() -> None:
    tokens, _ = two_runs()
    with pytest.raises(ValueError, match="expected one for each of the 2 rows, 1 to 9"):
        plan_sweep(small_model(), tokens, [], metrics.logit_diff(3, 7), lengths=[9, 10])


def test_variants_may_come_from_iterators() -> None:
    model = small_model()
    tokens, _ = two_runs()
    metric, base = metrics.logit_diff(3, 7), [edits.scale("blocks.0.mlp_out", 0.5)]
    listed = [[edits.zero("blocks.1.attn.z", head=head), edits.zero("blocks.2.attn.z", head=head)] for head in range(4)]
    told: list[str] = []
    found = sweep(model, tokens, map(iter, listed), metric, base_edits=iter(base), verify=2, tell=told.append)
    assert torch.equal(found, sweep(model, tokens, listed, metric, base_edits=base))
    assert told[0].startswith("2 variants run whole")
    with pytest.raises(ValueError, match="each variant is a list of edits"):
        sweep(model, tokens, iter(base), metric)  # type: ignore[arg-type]


def test_a_function_of_logits_sees_the_base_edits_of_the_unembedding() -> None:
    model = small_model()
    tokens, _ = two_runs()
    variants = [[], [edits.zero("blocks.1.attn.z", head=0)]]
    plan = plan_sweep(model, tokens, variants, own_metric, base_edits=[edits.scale("logits", 2.0)])
    assert plan.verify(plan.run(), 2) < TOLERANCE
    with pytest.raises(ValueError, match="cannot tell where shorter rows end"):
        plan_sweep(model, tokens, variants, own_metric, lengths=[9, 6])


def test_a_model_without_layers() -> None:
    model = small_model(n_layers=0)
    tokens, _ = two_runs()
    plan = plan_sweep(model, tokens, [[edits.zero("embed", pos=-1)], [edits.zero("embed", pos=2)]], metrics.logit_diff(3, 7))
    scores = plan.run()
    assert plan.verify(scores, 2) < TOLERANCE
    assert not torch.allclose(scores[0], scores[1])


def test_edits_of_positions_under_every_option() -> None:
    model = small_model()
    tokens, _ = two_runs()
    variants = [[edits.scale("pos_embed", 0.5, pos=3)], [edits.zero("blocks.1.attn.z", head=0)]]
    for options in ({}, {"lengths": [9, 6]}, {"base_edits": [edits.scale("pos_embed", 0.5, pos=2)]}):
        plan = plan_sweep(model, tokens, variants, metrics.logit_diff(3, 7), **options)
        assert plan.verify(plan.run(), 2) < TOLERANCE


def test_what_cannot_be_swept_is_said() -> None:
    tokens, _ = two_runs()
    edit = edits.zero("blocks.1.attn.z", head=0)
    with pytest.raises(ValueError, match="in a bidirectional model every position sees"):
        plan_sweep(small_model("bidirectional"), tokens, [[edit]], metrics.logit_diff(3, 7), lengths=[9, 6])
    with pytest.raises(ValueError, match="training mode, with dropout"):
        plan_sweep(small_model(dropout=0.1).train(), tokens, [[edit]], metrics.logit_diff(3, 7))
    with pytest.raises(ValueError, match="there is no token 50; there are 50, 0 to 49"):
        plan_sweep(small_model(), tokens, [[edit]], metrics.logit_diff(50, 7))
    with pytest.raises(ValueError, match="has 3 tokens for 2 rows"):
        plan_sweep(small_model(), tokens, [[edit]], metrics.log_prob([1, 2, 3]))
    with pytest.raises(ValueError, match="do not fit the context of n_ctx 16"):
        plan_sweep(small_model(), torch.zeros(1, 17, dtype=torch.long), [[edit]], metrics.logit_diff(3, 7))


def test_a_metric_takes_a_token_as_a_tensor() -> None:
    model = small_model()
    tokens, _ = two_runs()
    logits = model(tokens).detach()
    torch.testing.assert_close(metrics.log_prob(tokens[0, 0])(logits), metrics.log_prob(int(tokens[0, 0]))(logits))


def test_verify_is_not_fooled_by_what_is_no_number() -> None:
    model = small_model()
    tokens, _ = two_runs()
    plan = plan_sweep(model, tokens, [[edits.zero("blocks.1.attn.z", head=head)] for head in range(4)], metrics.logit_diff(3, 7))
    scores = plan.run()
    scores[2] = torch.nan
    assert plan.verify(scores, 4) != plan.verify(scores, 4)

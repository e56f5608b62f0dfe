"""A sweep computes only what its cells change, trusts what is the same only where nothing changed it, and says what it saves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.interp.models import small_model, two_runs
from torch import Tensor

from cutaway import ActivationCache, Transformer, edits, gradients, metrics, plan_sweep, run_with_cache, run_with_edits, sweep
from cutaway.interp.edits import Edit
from interp.sweep_cells import TOLERANCE, cells


def test_positions_before_the_edit_are_not_computed() -> None:
    model = small_model()
    tokens, corrupted = two_runs()
    _, cache = run_with_cache(model, corrupted)
    plan = plan_sweep(model, tokens, [[edits.patch("blocks.1.resid_pre", cache, pos=7)]], metrics.logit_diff(3, 7))
    assert [(group.start, group.end, group.n_last) for group in plan.groups] == [(7, 9, 1)]
    assert plan.groups[0].lanes[0].entry.layer == 1


def test_later_parts_of_a_layer_begin_later() -> None:
    model = small_model()
    tokens, corrupted = two_runs()
    _, cache = run_with_cache(model, corrupted)
    entries = {}
    for part in ("resid_pre", "attn.v", "attn.z", "attn_out", "resid_mid", "mlp.post", "mlp_out", "resid_post"):
        plan = plan_sweep(model, tokens, [[edits.patch(f"blocks.1.{part}", cache)]], metrics.logit_diff(3, 7))
        entry = plan.groups[0].lanes[0].entry
        entries[part] = (entry.layer, entry.half)
    expected = {
        "resid_pre": 0,
        "attn.v": 0,
        "attn.z": 1,
        "attn_out": 1,
        "resid_mid": 1,
        "mlp.post": 2,
        "mlp_out": 2,
        "resid_post": 2,
    }
    assert entries == {part: (1, half) for part, half in expected.items()}
    parallel = small_model("parallel")
    _, cache = run_with_cache(parallel, corrupted)
    plan = plan_sweep(parallel, tokens, [[edits.patch("blocks.1.attn.z", cache)]], metrics.logit_diff(3, 7))
    assert plan.groups[0].lanes[0].entry.half == 2  # the MLP beside it does not see it


def test_what_changes_nothing_is_not_run() -> None:
    model = small_model()
    tokens, corrupted = two_runs(differ_at=4)
    _, clean = run_with_cache(model, tokens)
    _, other = run_with_cache(model, corrupted)
    variants = [
        [edits.patch("blocks.1.resid_pre", clean)],  # its own value
        [edits.patch("blocks.1.resid_pre", other, pos=3)],  # before the tokens differ
        [edits.patch("blocks.1.resid_pre", other, pos=4)],
        [edits.zero("blocks.2.resid_post", pos=5)],  # after all that is read has been
    ]
    plan = plan_sweep(model, tokens, variants, metrics.logit_diff(3, 7, pos=4))
    assert {variant for variant, _ in plan.unchanged} == {0, 1, 3}
    scores = plan.run()
    base = metrics.logit_diff(3, 7, pos=4)(model(tokens))
    for i in (0, 1, 3):
        torch.testing.assert_close(scores[i], base, atol=TOLERANCE, rtol=0)
    assert not torch.allclose(scores[2], base)


def test_a_value_held_after_an_earlier_edit_is_an_edit() -> None:
    """Freezing a head at its own clean value matters once something before it has changed."""
    model = small_model()
    tokens, corrupted = two_runs()
    _, clean = run_with_cache(model, tokens)
    _, other = run_with_cache(model, corrupted)
    change = edits.patch("blocks.0.resid_pre", other, pos=4)
    frozen = [change, *(edits.patch(f"blocks.{layer}.attn.z", clean) for layer in range(3))]
    scores = sweep(model, tokens, [[change], frozen], metrics.logit_diff(3, 7))
    expected = metrics.logit_diff(3, 7)(run_with_edits(model, tokens, frozen))
    torch.testing.assert_close(scores[1], expected, atol=TOLERANCE, rtol=0)
    assert not torch.allclose(scores[0], scores[1])


def test_one_query_head_of_a_group_has_its_own_key() -> None:
    model = small_model("rotary, grouped, gated")
    tokens, corrupted = two_runs()
    _, cache = run_with_cache(model, corrupted)
    whole = [[edits.patch("blocks.1.attn.k", cache, head=0)], [edits.patch("blocks.1.attn.v", cache, head=1)]]
    single = [[edits.patch(f"blocks.1.attn.{part}", cache, query_head=head)] for part in ("k", "v") for head in range(4)]
    together = [[single[0][0], single[1][0]], [single[6][0], single[7][0]]]
    scores = sweep(model, tokens, whole + together + single, metrics.logit_diff(3, 7))
    torch.testing.assert_close(scores[:2], scores[2:4], atol=TOLERANCE, rtol=0)
    assert torch.unique(scores[4:].round(decimals=12), dim=0).shape[0] == 8


def test_functions_run_whole_unless_they_say_what_they_read() -> None:
    model = small_model()
    tokens, _ = two_runs()
    name = "blocks.1.attn.z"
    undeclared = [edits.apply(name, lambda z: z * 2, head=1, pos=7)]
    declared = [edits.apply(name, lambda z: z * 2, head=1, pos=7, reads="selection")]
    plan = plan_sweep(model, tokens, [undeclared, declared], metrics.logit_diff(3, 7))
    assert list(plan.whole) == [0]
    assert "reads='selection'" in str(plan)
    scores = plan.run()
    torch.testing.assert_close(scores[0], scores[1], atol=TOLERANCE, rtol=0)


def test_a_small_budget_gives_the_same_numbers_and_a_tiny_one_is_refused() -> None:
    model = small_model()
    tokens, corrupted = two_runs()
    variants = cells(model, corrupted)[:60]
    scores = sweep(model, tokens, variants, metrics.logit_diff(3, 7))
    plan = plan_sweep(model, tokens, variants, metrics.logit_diff(3, 7), memory_gib=3e-4)
    assert len(plan.groups) > 10
    torch.testing.assert_close(plan.run(), scores, atol=TOLERANCE, rtol=0)
    with pytest.raises(ValueError, match=r"the unedited run and one cell take .* GiB and the budget is 1e-09"):
        plan_sweep(model, tokens, variants, metrics.logit_diff(3, 7), memory_gib=1e-9)


def test_progress_counts_cells_and_may_end_the_sweep() -> None:
    model = small_model()
    tokens, corrupted = two_runs()
    variants = cells(model, corrupted)[:40]
    seen: list[tuple[int, int]] = []
    sweep(model, tokens, variants, metrics.logit_diff(3, 7), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (80, 80)

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt

    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt):
        sweep(model, tokens, variants, metrics.logit_diff(3, 7), progress=stop)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())


def test_verify_tells_the_largest_difference() -> None:
    model = small_model()
    tokens, corrupted = two_runs()
    told: list[str] = []
    sweep(model, tokens, cells(model, corrupted)[:20], metrics.logit_diff(3, 7), verify=3, tell=told.append)
    assert told[0].startswith("3 variants run whole: the largest difference is ")
    plan = plan_sweep(model, tokens, [[edits.zero("blocks.1.attn.z", head=0)]], metrics.logit_diff(3, 7))
    wrong = plan.run() + 1.0
    assert plan.verify(wrong, 1) == pytest.approx(1.0)


def test_the_plan_says_what_it_saves() -> None:
    model = small_model()
    tokens, _ = two_runs()
    variants = [[edits.zero(f"blocks.{layer}.attn.z", head=head, pos=-1)] for layer in range(3) for head in range(4)]
    plan = plan_sweep(model, tokens, variants, metrics.logit_diff(3, 7))
    assert plan.naive_flops > 4 * plan.flops
    assert "24 cells (12 variants of 2 rows): 24 run in 1 group, " in str(plan)
    bidirectional = small_model("bidirectional")
    assert "bidirectional" in str(plan_sweep(bidirectional, tokens, variants, metrics.logit_diff(3, 7)))


def skipped(model: Transformer, tokens: Tensor, edit: Edit, **options: object) -> bool:
    plan = plan_sweep(model, tokens, [[edit]], metrics.logit_diff(3, 7), **options)  # type: ignore[arg-type]
    assert plan.verify(plan.run(), 1) < TOLERANCE
    return len(plan.unchanged) == len(tokens)


def test_the_same_tokens_are_trusted_only_where_nothing_changed_since() -> None:
    """A patch from before the tokens differ changes nothing, if it is from a run of this very model at these very positions."""
    tokens, other = two_runs(differ_at=4)
    model = small_model()
    _, cache = run_with_cache(model, other)
    assert skipped(model, tokens, edits.patch("blocks.1.resid_pre", cache, pos=3))
    mine = tokens.clone()
    _, cache = run_with_cache(model, mine)
    mine[:, 4] = (mine[:, 4] + 1) % 50  # the cache keeps its own copy
    assert not skipped(model, mine, edits.patch("blocks.1.resid_pre", cache, pos=4))
    longer = torch.cat([tokens, tokens[:, :2]], dim=1)
    _, cache = run_with_cache(model, longer)
    assert not skipped(model, tokens, edits.patch("blocks.1.resid_pre", cache, pos=-1))
    _, cache = run_with_cache(model, tokens)
    assert not skipped(model, tokens, edits.patch("blocks.1.resid_pre", cache, pos=-1), lengths=[9, 6])
    _, _, grads = gradients(model, tokens, metrics.logit_diff(3, 7), "blocks.1.resid_pre")
    assert not skipped(model, tokens, edits.patch("blocks.1.resid_pre", grads, pos=3))
    assert not skipped(
        model, tokens, edits.patch("blocks.1.resid_pre", cache.to(dtype=torch.float32).to(dtype=torch.float64), pos=3)
    )
    with torch.no_grad():
        model.blocks[0].attn.W_O.weight.mul_(1.1)  # type: ignore[union-attr,operator]
    assert not skipped(model, tokens, edits.patch("blocks.1.resid_pre", cache, pos=3))


def test_a_value_that_was_changed_since_is_not_trusted() -> None:
    tokens, _ = two_runs()
    model = small_model()
    name = "blocks.1.resid_pre"

    def fresh() -> ActivationCache:
        return run_with_cache(model, tokens)[1]

    for part in ("resid_pre", "ln1.scale", "attn.result"):
        assert skipped(model, tokens, edits.patch(f"blocks.1.{part}", fresh(), pos=3))
    cache = fresh()
    cache["resid_pre", 1].mul_(2)  # before the edit is made
    for part in ("resid_pre", "ln1.scale"):
        assert not skipped(model, tokens, edits.patch(f"blocks.1.{part}", cache, pos=3))
    assert not skipped(model, tokens, edits.patch(name, cache.to("cpu"), pos=3))
    cache = fresh()
    cache["z", 1].mul_(2)
    assert not skipped(model, tokens, edits.patch("blocks.1.attn.result", cache, pos=3))
    cache = fresh()
    cache["pattern", 1].mul_(0.5)  # derived, and then kept
    assert not skipped(model, tokens, edits.patch("blocks.1.attn.pattern", cache, pos=3))
    for pos in (None, 3, [3, 5]):  # the cache's own memory, or a copy
        edit = edits.patch(name, fresh(), pos=pos)
        assert edit.value is not None
        edit.value.mul_(2)
        assert not skipped(model, tokens, edit)
    edit, kept = edits.patch(name, (cache := fresh())), edits.patch(name, cache, pos=[3, 5])
    cache["resid_pre", 1].mul_(2)
    assert not skipped(model, tokens, edit)
    assert skipped(model, tokens, kept)  # a copy of what was there before


def test_a_copy_of_a_patch_is_not_trusted() -> None:
    tokens, _ = two_runs()
    model = small_model()
    edit = edits.patch("blocks.1.resid_pre", run_with_cache(model, tokens)[1], pos=3)
    assert skipped(model, tokens, edit)
    assert edit.value is not None
    for change in ({"value": 2 * edit.value}, {"pos": 4}, {"name": "blocks.2.resid_pre"}):
        assert not skipped(model, tokens, replace(edit, **change))


def test_the_ends_of_shorter_rows_go_to_other_places() -> None:
    tokens, _ = two_runs()
    model = small_model()
    _, cache = run_with_cache(model, tokens, lengths=[9, 6])
    assert not skipped(model, tokens, edits.patch("blocks.1.resid_pre", cache, pos=-1))


def test_a_key_of_one_query_head_is_trusted_too() -> None:
    tokens, other = two_runs(differ_at=4)
    model = small_model("rotary, grouped, gated")
    _, cache = run_with_cache(model, other)
    for places in ({"query_head": 1, "pos": 3}, {"query_head": 1, "pos": 4}):
        assert skipped(model, tokens, edits.patch("blocks.1.attn.k", cache, **places)) == (places["pos"] == 3)


def test_keys_after_what_is_read_are_left_out() -> None:
    model = small_model()
    tokens, _ = two_runs()
    variants = [[edits.scale("blocks.1.attn.pattern", 0.5, index=index)] for index in (7, [2, 7], [7, 8], 2)]
    plan = plan_sweep(model, tokens, variants, metrics.logit_diff(3, 7, pos=5))
    assert plan.verify(plan.run(), 4) < TOLERANCE

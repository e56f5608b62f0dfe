"""What is recorded of a run, and its means and metrics, are what was computed, at the positions and of the dtype asked for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.interp.models import EXACT, VARIANTS, small_model, two_runs
from torch import Tensor

from cutaway import ActivationCache, edits, gradients, means, metrics, run_with_cache, run_with_edits, run_with_hooks, sweep
from cutaway.hooks import recording
from cutaway.interp.cache import cache_gib
from cutaway.interp.metrics import Metric


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cache_holds_what_the_run_computed(variant: str) -> None:
    model = small_model(variant)
    tokens, _ = two_runs()
    logits, cache = run_with_cache(model, tokens)
    hooks, activations = recording("*")
    expected = model(tokens, hooks=hooks)
    assert logits is not None
    torch.testing.assert_close(logits, expected, **EXACT)
    assert set(cache) == {name for name in activations if not name.endswith("attn.result")}
    for name, x in activations.items():
        torch.testing.assert_close(cache[name], x.expand_as(cache[name]), **EXACT)  # pos_embed gets its batch axis in a cache
        assert cache[name].shape[0] == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_cache_of_a_model_without_layers(variant: str) -> None:
    model = small_model(variant, n_layers=0)
    tokens, _ = two_runs()
    hooks, activations = recording("*")
    model(tokens, hooks=hooks)
    _, cache = run_with_cache(model, tokens)
    assert set(cache) == set(activations)
    for name, x in activations.items():
        torch.testing.assert_close(cache[name], x.expand_as(cache[name]), **EXACT)


def test_names_in_every_spelling() -> None:
    model = small_model()
    tokens, _ = two_runs()
    _, cache = run_with_cache(model, tokens, ["blocks.*.attn.hook_pattern", "blocks.1.hook_resid_post"])
    assert len(cache) == 4
    for name in ("blocks.1.attn.pattern", "blocks.1.attn.hook_pattern", ("pattern", 1), ("attn.pattern", -2)):
        assert torch.equal(cache[name], cache["blocks.1.attn.pattern"])
        assert name in cache
    assert ("resid_post", 0) not in cache
    with pytest.raises(KeyError, match=r"'blocks.0.resid_post' was not recorded: name it"):
        cache["resid_post", 0]
    with pytest.raises(KeyError, match="the nearest names are"):
        cache["blocks.0.attn.patern"]
    with pytest.raises(ValueError, match="there is no layer 7; the layers are 0 to 2"):
        cache["pattern", 7]
    with pytest.raises(ValueError, match=r"'scale' stands for ln1.scale and ln2.scale"):
        cache["scale", 0]


def test_positions_layers_dtype() -> None:
    model = small_model()
    tokens, _ = two_runs()
    _, full = run_with_cache(model, tokens)
    logits, cache = run_with_cache(model, tokens, pos=[1, -1], stop_after_layer=1, dtype=torch.float32)
    assert logits is None
    assert {name.split(".")[1] for name in cache if name.startswith("blocks")} == {"0", "1"}
    for name, x in cache.items():
        axis = -2 if "pattern" in name or "scores" in name else 1
        torch.testing.assert_close(x, full[name].index_select(axis, torch.tensor([1, 8])).float())
    assert cache.position_axis(8) == 1
    with pytest.raises(ValueError, match="position 3 was not kept; those that were are 1, 8"):
        cache.position_axis(3)
    with pytest.raises(ValueError, match="there is no position 9; there are 9, 0 to 8"):
        run_with_cache(model, tokens, pos=9)


@pytest.mark.parametrize("pos", [-1, [0, -2], [4, -1]])
def test_positions_from_each_row_s_own_end(pos: int | list[int]) -> None:
    model = small_model()
    tokens, other = two_runs()
    lengths, given = [9, 6], [pos] if isinstance(pos, int) else pos
    names = ["pos_embed", "blocks.*.resid_pre", "blocks.1.attn.z", "blocks.1.attn.pattern", "blocks.2.resid_post"]
    _, full = run_with_cache(model, tokens, names, lengths=lengths)
    _, kept = run_with_cache(model, tokens, names, lengths=lengths, pos=pos)
    for row, length in enumerate(lengths):
        places = [each % length for each in given]
        assert torch.equal(kept["z", 1][row], full["z", 1][row, places])
        assert torch.equal(kept["pattern", 1][row], full["pattern", 1][row][:, places])
        assert torch.equal(kept["pos_embed"][row], full["pos_embed"][row, places])
    whole, part = (edits.patch("blocks.1.attn.z", cache, pos=pos) for cache in (full, kept))
    expected = run_with_edits(model, other, [whole], lengths=lengths)
    assert torch.equal(run_with_edits(model, other, [part], lengths=lengths), expected)
    assert not torch.equal(expected, model(other))
    with pytest.raises(ValueError, match="position 3 was not kept; those that were are "):
        edits.patch("blocks.1.attn.z", kept, pos=3)
    for run in (
        lambda: run_with_cache(model, tokens, "embed", lengths=lengths, pos=-7),
        lambda: edits.patch("blocks.1.attn.z", full, pos=-7),
        lambda: full.accumulated_resid(pos=-7),
    ):
        with pytest.raises(ValueError, match="there is no position -7; there are 6, 0 to 5"):
            run()


def test_a_run_that_stops_refuses_what_comes_later() -> None:
    model = small_model()
    tokens, _ = two_runs()
    _, cache = run_with_cache(model, tokens, ["blocks.*.attn.z", "embed"], stop_after_layer=1)
    assert list(cache) == ["embed", "blocks.0.attn.z", "blocks.1.attn.z"]
    for late in ("blocks.2.resid_post", "logits", "blocks.2.*", ["embed", "ln_final.*"]):
        with pytest.raises(
            ValueError, match=r"stops after blocks\.1\.resid_post, before it comes to '.*': leave that out, or stop later"
        ):
            run_with_cache(model, tokens, late, stop_after_layer=1)
    with pytest.raises(ValueError, match=r"before it comes to zero blocks\.2\.attn\.z \(head 0\)"):
        run_with_cache(model, tokens, stop_after_layer=-2, edits=[edits.zero("blocks.2.attn.z", head=0)])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("given", [torch.float32, torch.bfloat16])
def test_a_whole_cache_in_another_dtype(variant: str, given: torch.dtype) -> None:
    model = small_model(variant).to(given)
    tokens, _ = two_runs()
    _, cache = run_with_cache(model, tokens)
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        converted = cache.to(dtype=dtype)
        assert {x.dtype for x in converted.values()} == {dtype}
        assert converted["result", 1].dtype is dtype
        for name, x in converted.items() if dtype is torch.float64 else ():  # it holds what float32 and bfloat16 do
            assert torch.equal(x, cache[name].to(dtype)), name
    _, recorded = run_with_cache(model, tokens, "blocks.1.attn.z", dtype=torch.float64)
    assert torch.equal(recorded["result", 1], cache["result", 1].double())


def test_what_a_cache_takes_is_known_before() -> None:
    model = small_model()
    tokens, _ = two_runs()
    _, cache = run_with_cache(model, tokens)
    said = cache_gib(model.config, batch=2, n_pos=9, dtype=torch.float64)
    held = sum(x.numel() * 8 for x in cache.values()) / 2**30
    assert said == pytest.approx(held, rel=1e-6)
    with pytest.raises(ValueError, match=r"these activations take .* GiB and 0.00 may be used: name fewer"):
        run_with_cache(model, tokens, max_gib=1e-6)


def test_unknown_names_are_refused_before_the_run() -> None:
    tokens, _ = two_runs()
    with pytest.raises(ValueError, match=r"computes no 'blocks.\*.attn.patterns'; the nearest names are"):
        run_with_cache(small_model(), tokens, "blocks.*.attn.patterns")
    with pytest.raises(ValueError, match="no activation is called 'nothing'"):
        run_with_hooks(small_model(), tokens, {"nothing": lambda x, name: None})


def test_means_over_rows_and_positions() -> None:
    model = small_model()
    tokens = torch.randint(0, 50, (5, 9), generator=torch.Generator().manual_seed(7))
    _, cache = run_with_cache(model, tokens)
    found = means(model, tokens, "blocks.*.attn.z", batch_size=2)
    kept = means(model, tokens, "blocks.1.mlp_out", batch_size=2, over_positions=False)
    torch.testing.assert_close(found["blocks.1.attn.z"], cache["z", 1].mean((0, 1)), **EXACT)
    torch.testing.assert_close(kept["blocks.1.mlp_out"], cache["mlp_out", 1].mean(0), **EXACT)


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        (lambda tokens, logits: metrics.kl(logits[:1]), r"kl\(pos=-1\) was given \(1, 9, 50\) for a run of \(2, 9, 50\)"),
        (lambda tokens, logits: metrics.kl(logits[..., :-1]), r"was given \(2, 9, 49\) for a run of \(2, 9, 50\)"),
        (
            lambda tokens, logits: metrics.loss(tokens[:1]),
            r"was given \(1, 9\) for a run of \(2, 9\): expected each row",
        ),
        (lambda tokens, logits: metrics.loss(tokens[:, :8]), r"was given \(2, 8\) for a run of \(2, 9\)"),
        (lambda tokens, logits: metrics.logit_diff(-1, 5), "there is no token -1; there are 50, 0 to 49"),
        (lambda tokens, logits: metrics.logit_diff(5, 55), "there is no token 55; there are 50, 0 to 49"),
        (lambda tokens, logits: metrics.prob([1, 2, 3]), "has 3 tokens for 2 rows"),
    ],
)
def test_metrics_of_other_rows_and_tokens_are_refused(metric: Callable[[Tensor, Tensor], Metric], said: str) -> None:
    model = small_model()
    tokens, _ = two_runs()
    logits = model(tokens).detach()
    read = metric(tokens, logits)
    for run in (
        lambda: read(logits),
        lambda: gradients(model, tokens, read, "embed"),
        lambda: sweep(model, tokens, [[edits.zero("blocks.1.attn.z", head=0)]], read),
    ):
        with pytest.raises(ValueError, match=said):
            run()


def test_a_cache_is_a_mapping() -> None:
    model = small_model()
    tokens, _ = two_runs()
    _, cache = run_with_cache(model, tokens, "blocks.*.resid_post")
    assert isinstance(cache, ActivationCache)
    torch.testing.assert_close(cache.stack("resid_post"), torch.stack(list(cache.values())), **EXACT)
    assert "3 activations" in repr(cache)
    assert cache.to(dtype=torch.float32)["resid_post", 0].dtype is torch.float32


def test_means_count_every_token_once() -> None:
    model = small_model()
    tokens, _ = two_runs()
    found = means(model, tokens, "blocks.1.attn.z", lengths=[9, 6])["blocks.1.attn.z"]
    _, cache = run_with_cache(model, tokens)
    z = cache["z", 1]
    torch.testing.assert_close(found, torch.cat([z[0], z[1, :6]]).mean(0), **EXACT)
    with pytest.raises(ValueError, match="rows of different lengths have no mean at each position"):
        means(model, tokens, "blocks.1.attn.z", lengths=[9, 6], over_positions=False)
    with pytest.raises(ValueError, match="holds a row of keys for every query"):
        means(model, tokens, "blocks.1.attn.pattern")


def test_sixteen_bits_are_summed_in_more() -> None:
    model = small_model().bfloat16()
    tokens = torch.randint(0, 50, (64, 9), generator=torch.Generator().manual_seed(7))
    _, cache = run_with_cache(model, tokens, "blocks.1.attn.z")
    expected = cache["z", 1].double().mean((0, 1))
    found = means(model, tokens, "blocks.1.attn.z")["blocks.1.attn.z"]
    torch.testing.assert_close(found.double(), expected, atol=2e-3, rtol=8e-3)  # bfloat16 keeps 8 bits
    logits = model(tokens).detach()
    wide = metrics.loss(tokens)(logits.float())
    torch.testing.assert_close(metrics.loss(tokens)(logits), wide, atol=1e-6, rtol=0)
    edits.project("blocks.1.resid_pre", torch.ones(32, dtype=torch.bfloat16))

"""Patching against loops of hooks written out here: every site, head, input, direction and length."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway.hooks import Hooks, recording
from cutaway.interp import metrics, patching
from cutaway.interp.patching import patch, patch_grid
from cutaway.interp.running import run_with_cache
from cutaway.language_model import LanguageModel
from interp.patched_prompts import CLEAN, CORRUPTED, LLAMA, LONGER, PARALLEL, ROUNDING, A, B, C, D

Pairs = Sequence[tuple[int, int]]


def with_patch(x: Tensor, other: Tensor, name: str, head: int | None, pairs: Pairs, keys: Pairs) -> Tensor:
    """The activation with that of another run in the places of a cell, element by element."""
    x = x.clone()
    heads = slice(None) if head is None else head
    for src, dst in pairs:
        if name.endswith(("pattern", "attn_scores")):
            for src_key, dst_key in keys:
                x[:, heads, dst, dst_key] = other[:, heads, src, src_key]
        elif head is None:
            x[:, dst] = other[:, src]
        else:
            x[:, dst, head] = other[:, src, head]
    return x


def naive(
    lm: LanguageModel,
    source: Tensor,
    into: Tensor,
    score: Callable[[Tensor], Tensor],
    part: str,
    cells: Sequence[tuple[int | None, Pairs]],
    all_pairs: Pairs,
) -> Tensor:
    """The metric of every layer and cell, a whole run with a hook for each."""
    hooks, other = recording("blocks.*")
    lm.model(source, hooks=hooks)
    scores = []
    for layer in range(lm.config.n_layers):
        name = f"blocks.{layer}.{part}"
        for head, pairs in cells:
            hook = lambda x, full, head=head, pairs=pairs: with_patch(x, other[full], full, head, pairs, all_pairs)  # noqa: E731
            scores.append(score(lm.model(into, hooks=Hooks({name: hook}))))
    return torch.stack(scores)


def score_of(answer: int, wrong: int) -> Callable[[Tensor], Tensor]:
    return lambda logits: logits[:, -1, answer] - logits[:, -1, wrong]


def identity(n: int) -> Pairs:
    return [(pos, pos) for pos in range(n)]


STREAM = [
    ("resid_pre", "resid_pre"),
    ("resid_mid", "resid_mid"),
    ("resid_post", "resid_post"),
    ("attn_out", "attn_out"),
    ("mlp_out", "mlp_out"),
]
HEADS = [("z", "attn.z"), ("q", "attn.q"), ("k", "attn.k"), ("v", "attn.v"), ("pattern", "attn.pattern")]


@pytest.mark.parametrize(("corrupted", "direction"), [(CORRUPTED, "denoising"), (LONGER, "denoising"), (LONGER, "noising")])
@pytest.mark.parametrize(("site", "part"), STREAM)
def test_positions(lm: LanguageModel, site: str, part: str, corrupted: str, direction: str) -> None:
    found = patch(lm, CLEAN, corrupted, "a", "b", site=site, direction=direction)
    one, two = lm.tokens(CLEAN), lm.tokens(corrupted)
    pairs = list(found.alignments[0].pairs)
    if direction == "noising":
        one, two, pairs = two, one, [(b, a) for a, b in pairs]
    expected = naive(lm, one, two, score_of(A, B), part, [(None, [pair]) for pair in pairs], pairs)
    base, other = (score_of(A, B)(lm.model(tokens)) for tokens in (two, one))
    assert found.scores.shape == (2, len(pairs), 1)
    torch.testing.assert_close(found.scores.flatten(0, 1), expected, rtol=0, atol=ROUNDING)
    recovery = (expected - base) / (other - base)
    torch.testing.assert_close(found.recovery.flatten(), recovery[:, 0], rtol=0, atol=ROUNDING)
    assert found.positions == tuple(dst for _, dst in pairs)


@pytest.mark.parametrize(("choices", "corrupted"), [({}, LONGER), (LLAMA, CORRUPTED), (LLAMA, LONGER), (PARALLEL, CORRUPTED)])
@pytest.mark.parametrize(("site", "part"), HEADS)
def test_heads(make_lm: Callable[..., LanguageModel], choices: dict[str, Any], site: str, part: str, corrupted: str) -> None:
    lm = make_lm(**choices)
    is_shared = site in "kv" and lm.config.n_kv_heads < lm.config.n_heads
    by = "kv-head" if is_shared else "head"
    found = patch(lm, CLEAN, corrupted, "a", "b", site=site, by=by)
    pairs = found.alignments[0].pairs
    n_heads = lm.config.n_kv_heads if is_shared else lm.config.n_heads
    tokens = lm.tokens(CLEAN), lm.tokens(corrupted)
    expected = naive(lm, *tokens, score_of(A, B), part, [(head, pairs) for head in range(n_heads)], pairs)
    torch.testing.assert_close(found.scores.flatten(0, 1), expected, rtol=0, atol=ROUNDING)
    cells = [(None, [pair]) for pair in pairs]
    at_positions = patch(lm, CLEAN, corrupted, "a", "b", site=site, by="position").scores
    torch.testing.assert_close(
        at_positions.flatten(0, 1), naive(lm, *tokens, score_of(A, B), part, cells, pairs), rtol=0, atol=ROUNDING
    )
    if site in ("q", "pattern"):
        cells = [(head, [pair]) for head in range(n_heads) for pair in pairs]
        each = patch(lm, CLEAN, corrupted, "a", "b", site=site, by="head-position").scores
        assert each.shape == (2, n_heads, len(pairs), 1)
        torch.testing.assert_close(
            each.flatten(0, 2), naive(lm, *tokens, score_of(A, B), part, cells, pairs), rtol=0, atol=ROUNDING
        )


@pytest.mark.parametrize(("site", "read"), [("k", "attn.attn_scores"), ("v", "attn.z")])
def test_keys_and_values_of_one_query_head(make_lm: Callable[..., LanguageModel], site: str, read: str) -> None:
    """The whole group patched gives what the head would read; that alone is then put into its place."""
    lm = make_lm(**LLAMA)
    one, two = lm.tokens(CLEAN), lm.tokens(CORRUPTED)
    hooks, other = recording("blocks.*")
    lm.model(one, hooks=hooks)
    expected = []
    for layer in range(2):
        for head in range(4):
            group, seen = head // 2, {}
            name, what = f"blocks.{layer}.attn.{site}", f"blocks.{layer}.{read}"

            def put(x: Tensor, full: str, group: int = group) -> Tensor:
                return with_patch(x, other[full], full, group, identity(x.shape[1]), [])

            lm.model(two, hooks=Hooks({name: put, what: lambda x, full, seen=seen: seen.update({full: x})}))

            def put_head(x: Tensor, full: str, head: int = head, seen: dict[str, Tensor] = seen) -> Tensor:
                pairs = identity(two.shape[1])
                return with_patch(x, seen[full], full, head, pairs, pairs)

            expected.append(score_of(A, B)(lm.model(two, hooks=Hooks({what: put_head}))))
    found = patch(lm, CLEAN, CORRUPTED, "a", "b", site=site)
    torch.testing.assert_close(found.scores.flatten(0, 1), torch.stack(expected), rtol=0, atol=ROUNDING)


def test_several_prompts_of_one_length(lm: LanguageModel) -> None:
    clean, corrupted = ["a cat on", "one foxx"], ["a dog in", "two foxy"]
    found = patch(lm, clean, corrupted, ["a", "b"], ["c", "d"], site="attn_out")
    one, two = lm.tokens(clean), lm.tokens(corrupted)

    def score(logits: Tensor) -> Tensor:
        return torch.stack([logits[0, -1, A] - logits[0, -1, C], logits[1, -1, B] - logits[1, -1, D]])

    pairs = identity(8)
    expected = naive(lm, one, two, score, "attn_out", [(None, [pair]) for pair in pairs], pairs)
    torch.testing.assert_close(found.scores.flatten(0, 1), expected, rtol=0, atol=ROUNDING)
    base, other = score(lm.model(two)), score(lm.model(one))
    recovery = (expected.mean(1) - base.mean()) / (other.mean() - base.mean())
    torch.testing.assert_close(found.recovery.flatten(), recovery, rtol=0, atol=ROUNDING)
    assert found.labels[2] == "2"  # each row has its own token there
    assert patch(lm, clean[:1], corrupted[:1], "a", "c").labels[2] == "2 c"


@pytest.mark.parametrize("site", ["z", "k", "pattern", "mlp_out"])
def test_several_prompts_of_different_length(make_lm: Callable[..., LanguageModel], site: str) -> None:
    """Each row as if it were alone: by head or layer, in either direction."""
    lm = make_lm(**LLAMA)
    clean, corrupted, answers = ["a cat on", "a fox"], ["a horse on", "an ox"], ["a", "b"]
    by = "layer" if site == "mlp_out" else "head"
    for direction in ("denoising", "noising"):
        together = patch(lm, clean, corrupted, answers, "c", site=site, by=by, direction=direction)
        for row in range(2):
            alone = patch(lm, clean[row], corrupted[row], answers[row], "c", site=site, by=by, direction=direction)
            torch.testing.assert_close(together.scores[..., row], alone.scores[..., 0], rtol=0, atol=ROUNDING)
            torch.testing.assert_close(together.base[row], alone.base[0], rtol=0, atol=ROUNDING)
            torch.testing.assert_close(together.other[row], alone.other[0], rtol=0, atol=ROUNDING)
    with pytest.raises(ValueError, match="need rows that align alike"):
        patch(lm, clean, corrupted, answers, "c", site=site, by="position")


@pytest.mark.parametrize("site", ["resid_pre", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "pattern"])
def test_a_run_into_itself_changes_nothing(make_lm: Callable[..., LanguageModel], site: str) -> None:
    lm = make_lm(**LLAMA)
    tokens, metric = lm.tokens(CLEAN), metrics.log_prob(A)
    _, cache = run_with_cache(lm.model, tokens)
    grid = patch_grid(lm.model, tokens, cache, metric, site=site)
    assert (grid == grid[0, 0]).all()
    torch.testing.assert_close(grid[0, 0], lm.model(tokens)[:, -1].log_softmax(-1)[:, A], rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("choices", [{}, LLAMA, PARALLEL, {"is_causal": False, "position": "sinusoidal"}])
@pytest.mark.parametrize("site", ["resid_pre", "resid_post"])
@pytest.mark.parametrize("metric", ["logit_diff", "prob", "log_prob"])
def test_the_whole_stream_is_the_whole_answer(
    make_lm: Callable[..., LanguageModel], choices: dict[str, Any], site: str, metric: Any
) -> None:
    found = patch(make_lm(**choices), CLEAN, CORRUPTED, "a", "b", site=site, by="layer", metric=metric)
    torch.testing.assert_close(found.recovery, torch.ones(2, dtype=torch.float64), rtol=0, atol=ROUNDING)


def test_metrics(lm: LanguageModel) -> None:
    log_prob, prob = patch(lm, CLEAN, CORRUPTED, "a"), patch(lm, CLEAN, CORRUPTED, "a", metric="prob")
    assert (log_prob.metric, log_prob.measured) == ("log_prob", "log-probability of a")
    torch.testing.assert_close(log_prob.scores.exp(), prob.scores, rtol=0, atol=ROUNDING)
    assert patch(lm, CLEAN, CORRUPTED, "a", "b").measured == "logit difference a - b"
    torch.testing.assert_close(patch(lm, CLEAN, CORRUPTED, A, B).scores, patch(lm, CLEAN, CORRUPTED, "a", "b").scores)
    torch.testing.assert_close(
        patch(lm, lm.tokens(CLEAN), lm.tokens(CORRUPTED), torch.tensor([A])).scores, log_prob.scores, rtol=0, atol=ROUNDING
    )


def test_pairs_by_hand(lm: LanguageModel) -> None:
    pairs = [(4, 5), (7, 9)]
    found = patch(lm, CLEAN, LONGER, "a", "b", pairs=pairs)
    expected = naive(
        lm, lm.tokens(CLEAN), lm.tokens(LONGER), score_of(A, B), "resid_pre", [(None, [pair]) for pair in pairs], pairs
    )
    torch.testing.assert_close(found.scores.flatten(0, 1), expected, rtol=0, atol=ROUNDING)
    assert found.labels == ["5 t", "9 n"]


def test_names_of_transformer_lens(lm: LanguageModel) -> None:
    one, two = lm.tokens(CLEAN), lm.tokens(CORRUPTED)
    _, cache = run_with_cache(lm.model, one)
    metric = metrics.logit_diff(A, B)
    pairs = identity(8)
    stream = {"resid_pre": "resid_pre", "resid_mid": "resid_mid", "attn_out": "attn_out", "mlp_out": "mlp_out"}
    for name, part in stream.items():
        grid = getattr(patching, f"get_act_patch_{name}")(lm.model, two, cache, metric)
        expected = naive(lm, one, two, score_of(A, B), part, [(None, [pair]) for pair in pairs], pairs)
        torch.testing.assert_close(grid.flatten(), expected[:, 0], rtol=0, atol=ROUNDING)
    for name, part in {"out": "z", "q": "q", "k": "k", "v": "v", "pattern": "pattern"}.items():
        grid = getattr(patching, f"get_act_patch_attn_head_{name}_all_pos")(lm.model, two, cache, metric)
        expected = naive(lm, one, two, score_of(A, B), f"attn.{part}", [(head, pairs) for head in range(4)], pairs)
        torch.testing.assert_close(grid.flatten(), expected[:, 0], rtol=0, atol=ROUNDING)


# --- models whose circuit is known


def test_dropout_is_off_and_the_mode_stays(make_lm: Callable[..., LanguageModel]) -> None:
    lm = make_lm(dropout=0.5)
    plain = patch(lm, [CLEAN, "one foxx"], [LONGER, "two foxy"], "a", "b", site="z")
    lm.model.train()
    for _ in range(2):
        again = patch(lm, [CLEAN, "one foxx"], [LONGER, "two foxy"], "a", "b", site="z")
        assert lm.model.training
        assert again.scores.equal(plain.scores)
        assert again.base.equal(plain.base)
        assert again.other.equal(plain.other)
    assert not again.scores.is_inference()  # whoever asked may go on with them

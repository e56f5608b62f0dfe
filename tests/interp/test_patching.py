"""Patching against loops of hooks written out here, and on models whose circuit is known."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.experiments.handmade import HANDMADE, Handmade, Neuron
from cutaway.hooks import Hooks, recording
from cutaway.interp import metrics, patching
from cutaway.interp.patching import Direction, band, patch, patch_grid
from cutaway.interp.running import run_with_cache
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.report import stdout_console
from cutaway.tokenizers import CharTokenizer

ROUNDING = 1e-10
SIZES: dict[str, Any] = {"d_vocab": 27, "n_ctx": 12, "n_layers": 2, "n_heads": 4, "d_model": 16}
LLAMA: dict[str, Any] = {
    "norm": "rmsnorm",
    "position": "rotary",
    "act": "silu",
    "gated_mlp": True,
    "n_kv_heads": 2,
    "attn_bias": False,
}
PARALLEL: dict[str, Any] = {"position": "rotary", "rotary_dim": 2, "block": "parallel"}
TOKENIZER = CharTokenizer("abcdefghijklmnopqrstuvwxyz ")
A, B, C, D = TOKENIZER.encode("abcd")
CLEAN, CORRUPTED, LONGER = "a cat on", "a dog in", "a horse on"


@pytest.fixture
def make_lm(make_model: Callable[..., Transformer]) -> Callable[..., LanguageModel]:
    def make(**choices: Any) -> LanguageModel:
        return LanguageModel(
            make_model(ModelConfig(**{**SIZES, "n_ctx": 20, **choices})), CharTokenizer("abcdefghijklmnopqrstuvwxyz ")
        )

    return make


@pytest.fixture
def lm(make_lm: Callable[..., LanguageModel]) -> LanguageModel:
    return make_lm()


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


def found_in(made: Handmade, site: str, **choices: Any) -> Tensor:
    """How far each cell moves the metric, of the way from one run to the other."""
    lm = LanguageModel(made.model, made.tokenizer)
    return patch(lm, made.tokens, made.corrupted_tokens, made.answers, made.wrong_answers, site=site, **choices).recovery


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("name", HANDMADE)
def test_the_known_heads_are_found(name: str, direction: str) -> None:
    """Precision and recall are 1, at any threshold between what norms let through and the greatest."""
    made = HANDMADE[name](n_prompts=4)
    recovery = found_in(made, "z", direction=direction)
    strong = {tuple(cell) for cell in (recovery > 0.9).nonzero().tolist()}
    nonzero = {tuple(cell) for cell in (recovery.abs() > made.leak / 9 + ROUNDING).nonzero().tolist()}
    assert strong == nonzero == {tuple(head) for head in made.circuit.heads}


INPUTS = {
    "induction": {("induction", "k")},
    "copying": {("copying", "k")},
    "indirect object": {("S-inhibition", "v"), ("name mover", "q")},
}
"""By which input what differs between the prompts reaches a head from another head."""


@pytest.mark.parametrize("name", INPUTS)
def test_the_known_inputs_are_found(name: str) -> None:
    made = HANDMADE[name](n_prompts=4)
    for site in "qkv":
        recovery = found_in(made, site)
        outside = {tuple(cell) for cell in (recovery.abs() > ROUNDING).nonzero().tolist()} - set(map(tuple, made.circuit.heads))
        assert not outside, site
        for head, role in made.circuit.heads.items():
            if made.circuit.head_edges() and any(edge.receiver == head for edge in made.circuit.head_edges()):
                assert (float(recovery[head]) > 0.9) == ((role, site) in INPUTS[name]), (role, site)


def test_the_known_neuron_is_in_its_layer() -> None:
    made = HANDMADE["neuron"](n_prompts=4)
    (unit,) = (part for part in made.circuit.neurons if isinstance(part, Neuron))
    recovery = found_in(made, "mlp_out")  # layer pos
    expected = torch.zeros_like(recovery)
    expected[unit.layer, int(made.positions[unit][0])] = 1.0
    torch.testing.assert_close(recovery, expected, rtol=0, atol=ROUNDING)


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


# --- what is shown


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ([[0.1, 0.9], [0.2, 0.8]], "The best position is 1 b in every layer."),
        ([[0.9, 0.1], [0.8, 0.1], [0.1, 0.7]], "The best position moves: 0 a (layers 0 to 1), then 1 b (layer 2)."),
        (
            [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]],
            "then 0 a (layers 7 to 8), and 1 shorter stretch besides.",
        ),
    ],
)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_where_the_stream_carries_it(lm: LanguageModel, shares: list[list[float]], sentence: str, direction: Direction) -> None:
    found = patch(lm, "ab", "bb", "c", direction=direction)
    scores = found.base + (found.other - found.base) * torch.tensor(shares, dtype=torch.float64)[..., None]
    moved = replace(found, scores=scores)
    assert sentence in moved.summary()
    assert sentence not in replace(moved, site="mlp_out").summary()


def test_noising_recovers_nothing(lm: LanguageModel) -> None:
    found = patch(lm, CLEAN, CORRUPTED, "a", site="z", direction="noising")
    shown = [found.summary(), *found.table()[0], *(figure.axes[0].get_xlabel() for figure in found.figures())]
    assert not any("recovery" in each.lower() for each in shown)
    assert "% of the way to the corrupted run" in found.summary()


def test_bands() -> None:
    assert [band(x) for x in (1.2, 0.701, 0.7, 0.41, 0.4, 0.21, 0.2, 0.0, -3.0)] == [
        "Critical", "Critical", "Important", "Important", "Moderate", "Moderate", "Minimal", "Minimal", "Minimal",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "choices", [{}, {"by": "layer"}, {"site": "z"}, {"site": "z", "by": "head-position"}, {"site": "v", "by": "kv-head"}]
)
def test_what_is_shown(make_lm: Callable[..., LanguageModel], choices: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    lm = make_lm(**LLAMA)
    found = patch(lm, CLEAN, LONGER, "a", **choices)
    values = found.to_dict()
    assert torch.tensor(values["recovery"], dtype=torch.float64).equal(found.recovery)
    assert len(values["cells"]) == found.scores[0, ..., 0].numel()
    assert [each["layer"] for each in values["layers"]] == [each.layer for each in found.ranked()]
    assert found.ranked()[0].recovery == pytest.approx(float(found.recovery.max()), abs=0)
    assert found.to_json()
    found.show(stdout_console())
    shown = capsys.readouterr().out
    assert "Positions without a partner are skipped" in shown
    assert "(0 %)" in shown
    assert max(map(len, shown.split("\n\n", 1)[1].splitlines())) <= 80
    assert len(found.figures()) == 1 + (found.by != "layer")


def test_values_beyond_0_and_100_percent_stay(lm: LanguageModel) -> None:
    found = patch(lm, CLEAN, CORRUPTED, "a", by="layer")
    gap = found.other - found.base
    beyond = replace(found, scores=torch.stack([found.base - 0.5 * gap, found.base + 1.5 * gap]))
    torch.testing.assert_close(beyond.recovery, torch.tensor([-0.5, 1.5], dtype=torch.float64), rtol=0, atol=ROUNDING)
    assert "1 Critical, 1 Minimal (Critical is above 70 %, Important is above 40 %" in beyond.summary()
    assert [(each.layer, each.band) for each in beyond.ranked()] == [(1, "Critical"), (0, "Minimal")]
    assert [row[2] for row in beyond.table()[1]] == ["150.0", "-50.0"]


# --- what is refused


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"corrupted": CLEAN}, "are the same tokens"),
        ({"corrupted": "qqq"}, "do not align anywhere"),
        ({"corrupted": "a cat"}, "and only their beginning in common, where no patch changes anything"),
        ({"corrupted": [CORRUPTED, CORRUPTED]}, "1 clean and 2 corrupted prompts"),
        ({"site": "resid_pree"}, "nearest names are resid_pre"),
        ({"by": "head"}, "resid_pre has no heads"),
        ({"by": "kv-head", "site": "z"}, "kv-head is for k and v"),
        ({"correct": "ab"}, "is not one token"),
        ({"correct": 99}, "has logits for 0 to 26"),
        ({"correct": ["a", "b", "c"]}, "3 answers for 1 prompts"),
        ({"wrong": "a"}, "are one token"),
        ({"metric": "logit_diff"}, "give a wrong answer"),
        ({"clean": CLEAN * 3, "corrupted": CORRUPTED * 3}, "the model reads 20"),
    ],
)
def test_refused(lm: LanguageModel, given: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        patch(lm, **{"clean": CLEAN, "corrupted": CORRUPTED, "correct": "a", **given})


def test_nothing_to_recover(lm: LanguageModel) -> None:
    """An answer whose logits do not depend on the prompt."""
    with torch.no_grad():
        for block in lm.model.blocks:
            block.attn.W_O.weight.zero_()
            block.attn.W_O.bias.zero_()
    with pytest.raises(ValueError, match="both runs give the same log-probability of a"):
        patch(lm, "a cat", "a bat", "a")


def test_what_the_stream_brings_where_it_is_read_is_told_apart(lm: LanguageModel) -> None:
    found = patch(lm, CLEAN, CORRUPTED, "a", "b", site="resid_pre")
    last = len(found.alignments[0].corrupted) - 1
    assert found.read == (last,)
    elsewhere = found.recovery[:, [place for place, pos in enumerate(found.positions) if pos != last]]
    best = found.ranked(apart=found.read)[0]
    assert best.recovery == pytest.approx(elsewhere.max().item(), abs=ROUNDING)
    assert not best.where.startswith(f"{last} ")
    assert f"Apart from position {last}" in found.summary()
    header, rows = found.table()
    assert header[-2:] == [f"best but {last}", "%"]
    assert {row[-2].split()[0] for row in rows} <= {str(pos) for pos in found.positions} - {str(last)}
    assert found.to_dict()["layers_apart_from_read"][0]["recovery"] == best.recovery
    by_head = patch(lm, CLEAN, CORRUPTED, "a", "b", site="z")
    assert by_head.read == ()
    assert "Apart from" not in by_head.summary()

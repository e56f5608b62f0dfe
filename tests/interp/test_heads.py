"""Heads score what loops over queries say, and those of models made by hand are found, all of them and no others."""

import json
import math
import weakref
from collections.abc import Callable
from functools import cache, partial
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.experiments.handmade import HANDMADE, Handmade
from cutaway.hooks import recording
from cutaway.interp.ablation import ablate
from cutaway.interp.attention import attention_patterns
from cutaway.interp.heads import detect_heads, detection, induction_heads, repeated_tokens
from cutaway.interp.refactoring import fold_norm, ungroup_heads
from cutaway.interp.result import Result
from cutaway.language_model import LanguageModel, load
from cutaway.model import Transformer
from cutaway.tokenizers import BytePairTokenizer, CharTokenizer, NoTokenizer

MakeModel = Callable[..., Transformer]
LETTERS = "abcdefghijklmnopqrstuvwxyz .!?\n"  # 31, as in the tiny models

same = partial(torch.testing.assert_close, rtol=0, atol=1e-12)  # float64: means of numbers of size 1
close = partial(pytest.approx, rel=0, abs=1e-12)


@cache
def built(name: str) -> Handmade:
    return HANDMADE[name](n_prompts=1)


def shown(result: Result) -> str:
    console = Console(width=80, record=True, color_system=None, force_terminal=True, file=StringIO())
    result.show(console)
    return console.export_text()


# --- the sequences


def test_tokens_come_twice_and_never_more(tiny_model: Transformer) -> None:
    drawn = repeated_tokens(tiny_model, n_sequences=20, seq_length=6, seed=3)
    assert drawn.tokens.shape == (20, 12)
    assert torch.equal(drawn.tokens[:, :6], drawn.tokens[:, 6:])
    assert all(len(set(row.tolist())) == 6 for row in drawn.tokens)
    assert len({tuple(row.tolist()) for row in drawn.tokens}) == 20
    assert set(drawn.tokens.flatten().tolist()) == set(range(31))
    assert torch.equal(drawn.tokens, repeated_tokens(tiny_model, n_sequences=20, seq_length=6, seed=3).tokens)
    assert not torch.equal(drawn.tokens, repeated_tokens(tiny_model, n_sequences=20, seq_length=6, seed=4).tokens)
    state = torch.get_rng_state()
    repeated_tokens(tiny_model, n_sequences=1)
    assert torch.equal(state, torch.get_rng_state())


def test_special_tokens_and_ids_without_a_token_are_never_drawn(tiny_config: ModelConfig) -> None:
    tokens = {token_id: bytes([65 + token_id]) for token_id in (0, 1, 2, 4, 5, 7, 8)}
    special = {"<|endoftext|>": 3, "<|begin|>": 9}
    settings = {"bos_token": "<|begin|>", "adds_bos": True}

    class Few(CharTokenizer):
        def __init__(self) -> None:
            super(CharTokenizer, self).__init__(tokens, special, **settings)

    lm = LanguageModel(Transformer(tiny_config.replace(n_ctx=40)), Few())
    drawn = repeated_tokens(lm, n_sequences=30)
    assert drawn.has_bos
    assert drawn.start == 1
    assert (drawn.tokens[:, 0] == 9).all()
    assert drawn.seq_length == 7
    assert set(drawn.tokens[:, 1:].flatten().tolist()) == set(tokens)
    assert drawn.said() == "Sequences are 7 tokens long, twice: there are 7 tokens that are not special, and none is drawn twice."
    assert not repeated_tokens(lm, n_sequences=2, bos=False).has_bos
    with pytest.raises(ValueError, match="the sequence is to have 8 tokens; expected 2 to 7, as there are 7 tokens that are"):
        repeated_tokens(lm, n_sequences=2, seq_length=8)


def test_sequences_fit_the_context(tiny_config: ModelConfig) -> None:
    def drawn(n_ctx: int, d_vocab: int, **options: int):
        return repeated_tokens(Transformer(tiny_config.replace(n_ctx=n_ctx, d_vocab=d_vocab)), n_sequences=1, **options)

    shakespeare = drawn(64, 65)  # tiny Shakespeare's characters and the context of shakespeare-char
    assert shakespeare.seq_length == 32
    assert shakespeare.said() == "Sequences are 32 tokens long, twice: no more fits the context of 64."
    assert drawn(200, 65).seq_length == 50
    assert drawn(200, 65).said() == ""
    assert drawn(65, 65, seq_length=20).said() == ""
    with pytest.raises(ValueError, match="the sequence is to have 33 tokens; expected 2 to 32, as no more fits the context of 64"):
        drawn(64, 65, seq_length=33)
    with pytest.raises(ValueError, match="the sequence is to have 1 tokens; expected 2 to 32"):
        drawn(64, 65, seq_length=1)
    with pytest.raises(ValueError, match="at least 2 tokens that come twice cannot be drawn: no more fits the context of 3"):
        drawn(3, 65)


def test_what_else_cannot_be_drawn(tiny_model: Transformer) -> None:
    with pytest.raises(ValueError, match="0 sequences were asked for; draw at least one"):
        repeated_tokens(tiny_model, n_sequences=0)
    with pytest.raises(ValueError, match="no tokenizer to say which token begins a text"):
        repeated_tokens(LanguageModel(tiny_model, NoTokenizer()), n_sequences=1, bos=True)
    with pytest.raises(ValueError, match="the tokenizer has no token that begins a text"):
        repeated_tokens(LanguageModel(tiny_model, CharTokenizer(LETTERS)), n_sequences=1, bos=True)
    assert repeated_tokens(LanguageModel(tiny_model, NoTokenizer()), n_sequences=1).seq_length == 6


# --- scores


@torch.no_grad()
def written_out(model: Transformer, tokens: Tensor, n: int, start: int) -> dict[str, Tensor]:
    """Every score but copying, query by query, with the loss after every position."""
    hooks, seen = recording("*.pattern", "logits")
    model(tokens, hooks=hooks)
    config, n_pos = model.config, tokens.shape[1]
    found = {kind: torch.zeros(config.n_layers, config.n_heads, dtype=torch.float64) for kind in
             ("previous", "first", "duplicate", "induction", "uniform")}  # fmt: skip
    for layer in range(config.n_layers):
        for head in range(config.n_heads):
            scores: dict[str, list[float]] = {kind: [] for kind in found}
            for row, attended in zip(tokens.tolist(), seen[f"blocks.{layer}.attn.pattern"][:, head].tolist(), strict=True):
                for query in range(1, n_pos):
                    probs = [p for p in attended[query] if p > 0]
                    n_keys = query + 1 if config.is_causal else n_pos
                    scores["uniform"].append(math.exp(-sum(p * math.log(p) for p in probs)) / n_keys)
                    if query >= 2:
                        scores["previous"].append(attended[query][query - 1])
                        scores["first"].append(attended[query][0])
                    if query >= start + n:
                        earlier = row.index(row[query], start)
                        assert earlier < start + n
                        scores["duplicate"].append(attended[query][earlier])
                        scores["induction"].append(attended[query][earlier + 1])
            for kind, values in scores.items():
                found[kind][layer, head] = sum(values) / len(values)
    if config.d_vocab_out == config.d_vocab:
        log_probs = seen["logits"].log_softmax(dim=-1)
        losses = [-sum(log_probs[i, pos, row[pos + 1]] for i, row in enumerate(tokens)) / len(tokens) for pos in range(n_pos - 1)]
        found["losses"] = torch.stack(losses)
    return found


def test_scores_are_those_of_a_loop(variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(variant)
    found = detect_heads(model, n_sequences=3, seq_length=5, seed=1, batch_size=2)
    expected = written_out(model, repeated_tokens(model, n_sequences=3, seq_length=5, seed=1).tokens, 5, 0)
    for kind in ("previous", "first", "duplicate", "induction", "uniform"):
        same(found.scores[kind], expected[kind])
    if variant.is_causal and variant.d_vocab_out == variant.d_vocab:
        same(found.losses, expected["losses"])
        assert found.loss_first == close(expected["losses"][:4].mean().item())
        assert found.loss_second == close(expected["losses"][5:9].mean().item())
    else:
        assert found.losses is found.loss_first is found.loss_second is None
        assert "nats" not in found.summary()
    assert ("copying" in found.scores) == (variant.d_vocab_out == variant.d_vocab)


def test_scores_after_a_token_that_begins_a_text(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    tokenizer = BytePairTokenizer(special_tokens={"<s>": 256}, bos_token="<s>", adds_bos=True)
    model = make_model(tiny_config.replace(d_vocab=257, n_ctx=20))
    found = detect_heads(LanguageModel(model, tokenizer), n_sequences=4)
    assert (found.drawn.has_bos, found.drawn.seq_length) == (True, 9)
    expected = written_out(model, found.drawn.tokens, 9, 1)
    for kind in ("previous", "first", "duplicate", "induction", "uniform"):
        same(found.scores[kind], expected[kind])
    assert found.loss_first == close(expected["losses"][1:9].mean().item())
    assert found.loss_second == close(expected["losses"][10:18].mean().item())


def test_uniform_attention_scores_the_null(variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(variant)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".W_Q." in name:
                weight.zero_()
    found = detect_heads(model, n_sequences=2, seq_length=6)
    for kind in ("previous", "first", "duplicate", "induction"):
        same(found.scores[kind], torch.full_like(found.scores[kind], found.nulls[kind]))
    same(found.scores["uniform"], torch.ones_like(found.scores["uniform"]))
    keys = [query + 1 if variant.is_causal else 12 for query in range(12)]
    assert found.nulls["previous"] == close(sum(1 / n for n in keys[2:]) / 10)
    assert found.nulls["induction"] == close(sum(1 / n for n in keys[6:]) / 6)
    assert found.nulls["uniform"] == close(sum(1 / n for n in keys[1:]) / 11)


def test_what_changes_no_pattern_changes_no_score(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    model = make_model(tiny_config.replace(n_kv_heads=2, position="rotary"))
    options = {"n_sequences": 4, "seq_length": 5, "seed": 2}
    found = detect_heads(model, **options)
    for other in (fold_norm(model), ungroup_heads(model)):
        for kind, scores in detect_heads(other, **options).scores.items():
            torch.testing.assert_close(scores, found.scores[kind], rtol=0, atol=1e-11)
    for batch_size in (1, 3):
        for kind, scores in detect_heads(model, **options, batch_size=batch_size).scores.items():
            same(scores, found.scores[kind])
    model.train()
    same(detect_heads(model, **options).scores["induction"], found.scores["induction"])
    assert model.training


def test_patterns_are_not_kept(make_model: MakeModel, tiny_config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns: list[weakref.ref[Tensor]] = []
    most_alive = 0

    def watching(pattern: Tensor, *arguments: object) -> Tensor:
        nonlocal most_alive
        if not any(each() is pattern for each in patterns):
            patterns.append(weakref.ref(pattern))
        most_alive = max(most_alive, sum(each() is not None for each in patterns))
        return read(pattern, *arguments)

    read = detection._READ["uniform"]
    monkeypatch.setitem(detection._READ, "uniform", watching)
    detect_heads(make_model(tiny_config.replace(n_layers=6)), n_sequences=4, batch_size=2)
    assert len(patterns) >= 12  # six layers, two batches, and what the nulls are read from
    assert most_alive == 1


# --- models made by hand

ROLES = {"previous token": "previous", "induction": "induction", "duplicate token": "duplicate"}


@pytest.mark.parametrize("name", HANDMADE)
def test_heads_made_by_hand_are_found(name: str) -> None:
    made = built(name)
    found = detect_heads(LanguageModel(made.model, made.tokenizer), n_sequences=4)
    known = {head: ROLES.get(role, role) for head, role in {**made.circuit.heads, **made.distractors}.items()}
    for kind in ("previous", "first", "duplicate", "induction"):
        of_kind = {head for head, role in known.items() if role == kind}
        assert {(each.layer, each.head) for each in found.of_kind(kind)} == of_kind, kind
        assert all(each.score >= 0.9 for each in found.of_kind(kind))
        assert all(kind in {each.kind for each in found.labels()[head]} for head in of_kind)
    for head, role in known.items():
        if role == "uniform":
            assert found.score("uniform", *head).score == pytest.approx(1, abs=1e-5 * bool(made.leak) + 1e-12)
    copying = {head for head, role in made.circuit.heads.items() if role in ("induction", "copying", "name mover")}
    assert {(each.layer, each.head) for each in found.of_kind("copying")} == copying
    if "induction" in known.values():
        assert found.loss_second < 0.01 < 4 < found.loss_first


def test_an_induction_head_made_by_hand_is_first() -> None:
    made = built("induction, with decoys")
    result = induction_heads(made.model, n_sequences=4, top_k=3)
    head = next(head for head, role in made.circuit.heads.items() if role == "induction")
    assert result.to_dict()["top"][0]["layer"] == head.layer
    assert result.to_dict()["top"][0]["head"] == head.head
    assert result.summary().startswith("1 of 12 heads looks with at least 0.5")
    assert len(result.table()[1]) == 3


# --- results


def test_top_and_labels(tiny_model: Transformer) -> None:
    found = detect_heads(tiny_model, n_sequences=2)
    best = found.top(3, "previous")
    assert [each.score for each in best] == sorted(found.scores["previous"].flatten().tolist(), reverse=True)[:3]
    assert best[0].null == found.nulls["previous"]
    assert best[0].score == found.scores["previous"][best[0].layer, best[0].head]
    least = best[1].score
    assert found.of_kind("previous", least) == best[:2]
    for (layer, head), kinds in found.labels(least).items():
        assert all((each.layer, each.head) == (layer, head) and each.score >= least for each in kinds)
        assert kinds == sorted(kinds, key=lambda each: -each.score)
    assert found.labels(2.0) == {}
    assert len(found.top(100, "first")) == 8


def test_a_kind_that_there_is_not(tiny_model: Transformer, without_type_checks: None) -> None:
    found = detect_heads(tiny_model, n_sequences=1)
    with pytest.raises(ValueError, match="no scores of 'mover'; there are 'previous', 'first', 'duplicate', 'induction'"):
        found.top(1, "mover")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="0 heads were asked for; ask for at least one"):
        induction_heads(tiny_model, top_k=0)


@pytest.mark.parametrize("analyse", [detect_heads, induction_heads])
@pytest.mark.parametrize("shape", [{}, {"n_layers": 9}, {"d_vocab_out": 7, "tie_embeddings": False}])
def test_results_are_data_and_show_themselves(analyse, shape, make_model: MakeModel, tiny_config: ModelConfig) -> None:
    result = analyse(make_model(tiny_config.replace(**shape)), n_sequences=2)
    content = json.loads(result.to_json())
    assert len(content["scores"]["induction"]) == tiny_config.replace(**shape).n_layers
    assert (content["n_sequences"], content["seq_length"], content["seed"]) == (2, 6, 0)
    text = shown(result)
    assert max(map(len, text.splitlines())) <= 80
    assert "Sequences are 6 tokens long, twice: no more fits the context of 12." in " ".join(text.split())
    assert result.figures()
    assert result.table()[1]


@pytest.mark.parametrize(
    "look",
    [detect_heads, lambda lm: ablate(lm, "def f(x)"), lambda lm: attention_patterns(lm, "def f(x)")],
    ids=["heads", "ablate", "attention"],
)
def test_a_model_without_layers_has_no_heads(look) -> None:
    with pytest.raises(ValueError, match="this model has no layers, and so no heads and no MLPs"):
        look(load("bigrams-0l"))

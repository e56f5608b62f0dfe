"""Attention is what the equation says, key by key; what arrives of it adds up to what attention writes."""

import json
import math
from collections.abc import Callable
from functools import partial
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.hooks import recording
from cutaway.interp import attention
from cutaway.interp.attention import AttentionPatterns, attention_patterns, weighted_pattern
from cutaway.interp.refactoring import factor_ov
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import CharTokenizer

MakeModel = Callable[..., Transformer]
LETTERS = "abcdefghijklmnopqrstuvwxyz .!?\n"  # 31, as in the tiny models
TEXT = "the cat sat"

same = partial(torch.testing.assert_close, rtol=0, atol=1e-12)  # float64: sums of a dozen numbers of size 1


def with_letters(model: Transformer) -> LanguageModel:
    return LanguageModel(model, CharTokenizer(LETTERS))


def recorded(model: Transformer, tokens: Tensor) -> dict[str, Tensor]:
    hooks, activations = recording("*")
    model(tokens, hooks=hooks)
    return activations


def shown(result: AttentionPatterns) -> str:
    console = Console(width=80, record=True, color_system=None, force_terminal=True, file=StringIO())
    result.show(console)
    return console.export_text()


# --- numbers of a pattern


def test_numbers_of_patterns_that_are_known() -> None:
    n = 7
    uniform = torch.ones(n, n, dtype=torch.float64).tril() / torch.arange(1, n + 1)[:, None]
    previous = torch.eye(n, dtype=torch.float64).roll(-1, dims=1)
    q_pos = torch.arange(n, dtype=torch.float64)
    same(attention.entropy(uniform), (q_pos + 1).log())
    same(attention.entropy(previous), torch.zeros(n, dtype=torch.float64))
    same(attention.mean_distance(uniform), q_pos / 2)
    same(attention.mean_distance(previous)[1:-1], torch.ones(n - 2, dtype=torch.float64))
    share = attention.entropy_share(uniform)
    assert math.isnan(share[0])
    same(share[1:], torch.ones(n - 1, dtype=torch.float64))
    halves = torch.full((1, 4), 0.25, dtype=torch.float64)
    same(attention.entropy_share(halves, is_causal=False), torch.ones(1, dtype=torch.float64))
    quarters = torch.tensor([0.25, 0.75], dtype=torch.float64)
    same(attention.entropy(quarters[None]), torch.tensor([math.log(4) - 0.75 * math.log(3)], dtype=torch.float64))


def test_fewer_queries_than_keys_are_the_last() -> None:
    pattern = torch.softmax(torch.randn(2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), dim=-1)
    same(attention.mean_distance(pattern)[:, -2:], attention.mean_distance(pattern[:, -2:]))
    seen = torch.ones(5, 5, dtype=torch.float64).tril() / torch.arange(1, 6)[:, None]
    same(attention.entropy_share(seen)[-2:], attention.entropy_share(seen[-2:]))


# --- patterns of a model


@torch.no_grad()
def test_patterns_are_the_softmax_of_scores_written_out(variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(variant)
    found = attention_patterns(with_letters(model), TEXT)
    seen = recorded(model, with_letters(model).tokens(TEXT))
    group = variant.n_heads // variant.n_kv_heads
    for (layer, head), pattern in zip(found.heads, found.patterns, strict=True):
        prefix = f"blocks.{layer}.attn.{'rot_' if variant.position == 'rotary' else ''}"
        q, k = seen[f"{prefix}q"][0, :, head], seen[f"{prefix}k"][0, :, head // group]
        for query in range(len(TEXT)):
            keys = range(query + 1 if variant.is_causal else len(TEXT))
            scores = [float(q[query] @ k[key]) / math.sqrt(variant.d_head) for key in keys]
            total = sum(map(math.exp, scores))
            expected = [math.exp(score) / total for score in scores] + [0.0] * (len(TEXT) - len(keys))
            same(pattern[query], torch.tensor(expected, dtype=torch.float64))
    assert found.patterns is not found.values
    same(found.patterns, found.values)


@torch.no_grad()
def test_what_arrives_adds_up_to_what_attention_writes(variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(variant)
    lm = with_letters(model)
    seen = recorded(model, lm.tokens(TEXT))
    by_value, by_output = (attention_patterns(lm, TEXT, weighting=weighting) for weighting in ("value", "output"))
    group, n = variant.n_heads // variant.n_kv_heads, len(TEXT)
    for layer in range(variant.n_layers):
        attn, written = model.blocks[layer].attn, torch.zeros(n, variant.d_model, dtype=torch.float64)
        for head in range(variant.n_heads):
            place = layer * variant.n_heads + head
            pattern, v = by_output.patterns[place], seen[f"blocks.{layer}.attn.v"][0, :, head // group]
            W_O = attn.W_O.weight[:, head * variant.d_head : (head + 1) * variant.d_head]  # d_model d_head
            for query in range(n):
                for key in range(n):
                    arrives = W_O @ (pattern[query, key] * v[key])
                    written[query] += arrives
                    assert by_output.values[place, query, key] == pytest.approx(float(arrives.norm()), abs=1e-12)
                    expected = float(pattern[query, key] * v[key].norm())
                    assert by_value.values[place, query, key] == pytest.approx(expected, abs=1e-12)
        bias = 0 if attn.W_O.bias is None else attn.W_O.bias
        same(written + bias, seen[f"blocks.{layer}.attn_out"][0])


@torch.no_grad()
def test_where_values_are_coordinates_of_the_output_both_weightings_agree(tiny_model: Transformer) -> None:
    lm, factored = with_letters(tiny_model), with_letters(factor_ov(tiny_model))
    by_output = attention_patterns(lm, TEXT, weighting="output").values
    torch.testing.assert_close(attention_patterns(factored, TEXT, weighting="output").values, by_output, rtol=0, atol=1e-11)
    torch.testing.assert_close(attention_patterns(factored, TEXT, weighting="value").values, by_output, rtol=0, atol=1e-11)
    assert (attention_patterns(lm, TEXT, weighting="value").values - by_output).abs().max() > 1e-3


@torch.no_grad()
def test_rows_are_weighted_one_by_one(tiny_model: Transformer, tokens: Tensor) -> None:
    seen = recorded(tiny_model, tokens)
    pattern, v = seen["blocks.1.attn.pattern"], seen["blocks.1.attn.v"]
    both = weighted_pattern(tiny_model, 1, pattern, v, weighting="output")
    same(both[1:], weighted_pattern(tiny_model, 1, pattern[1:], v[1:], weighting="output"))
    assert weighted_pattern(tiny_model, 1, pattern, v, weighting="attention") is pattern


def test_heads_are_chosen(tiny_model: Transformer) -> None:
    lm = with_letters(tiny_model)
    whole = attention_patterns(lm, TEXT)
    assert whole.heads == tuple((layer, head) for layer in range(2) for head in range(4))
    chosen = attention_patterns(lm, lm.tokens(TEXT)[0], layer=-1, head=[-2, 0])
    assert chosen.heads == ((1, 2), (1, 0))
    same(chosen.patterns, whole.patterns[[6, 4]])
    assert attention_patterns(lm, TEXT, head=1).heads == ((0, 1), (1, 1))
    same(chosen.entropy, whole.entropy[[6, 4]])
    same(whole.distance[0], attention.mean_distance(whole.patterns[0])[1:].mean())
    same(whole.shares.sum(dim=-1), torch.ones(8, len(TEXT), dtype=torch.float64))


def test_what_cannot_be_asked(tiny_model: Transformer) -> None:
    lm = with_letters(tiny_model)
    with pytest.raises(ValueError, match="there is no layer 2; this model has 2, 0 to 1"):
        attention_patterns(lm, TEXT, layer=2)
    with pytest.raises(ValueError, match="there is no head -5; this model has 4, 0 to 3"):
        attention_patterns(lm, TEXT, head=-5)
    with pytest.raises(ValueError, match="no head is given"):
        attention_patterns(lm, TEXT, head=[])
    with pytest.raises(ValueError, match="one token, which has nothing but itself"):
        attention_patterns(lm, "a")
    with pytest.raises(ValueError, match="13 tokens do not fit"):
        attention_patterns(lm, "a" * 13)
    with pytest.raises(ValueError, match=r"the ids have the shape \[2, 3\]; expected one row of them"):
        attention_patterns(lm, lm.tokens(["abc", "def"]))


def test_dropout_is_off_and_the_mode_stays(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    lm = with_letters(make_model(tiny_config.replace(dropout=0.5)))
    expected = attention_patterns(lm, TEXT).patterns
    lm.model.train()
    for _ in range(2):
        assert torch.equal(attention_patterns(lm, TEXT).patterns, expected)
    assert lm.model.training


# --- shown


def test_one_head_is_a_map(tiny_model: Transformer) -> None:
    found = attention_patterns(with_letters(tiny_model), "to be\n", layer=1, head=2, weighting="output")
    text = shown(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "L1H2 looks" in text
    assert "by what arrives of it" in text
    assert "␣" in text
    assert "5 ⏎" in text
    assert f"{found.shares[0, 4, 3]:.2f}" in text
    assert len(found.figures()) == 1
    content = json.loads(found.to_json())
    assert content["heads"][0]["weighted"][4][3] == found.values[0, 4, 3].item()
    assert content["heads"][0]["pattern"][4][3] == found.patterns[0, 4, 3].item()


def test_a_layer_is_a_table_and_the_whole_of_a_deep_model_a_map(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    lm = with_letters(make_model(tiny_config.replace(n_layers=7, n_heads=8, n_ctx=40)))
    layer = attention_patterns(lm, TEXT, layer=3)
    text = shown(layer)
    assert "mean of the 8 heads" in text
    assert text.count("L3H") >= 8
    assert max(map(len, text.splitlines())) <= 80
    assert "8 heads on 11 tokens" in layer.summary()
    whole = attention_patterns(lm, TEXT)
    text = shown(whole)
    assert max(map(len, text.splitlines())) <= 80
    assert "Name a layer" in text
    assert f"{whole.entropy_share[-1]:.2f}" in text
    assert len(whole.figures()) == 2
    assert "The first 32 of 40 tokens" in shown(attention_patterns(lm, "abcd" * 10, layer=0, head=0))
    assert "The first 16 of 40 tokens" in shown(attention_patterns(lm, "abcd" * 10, layer=0, head=[0, 1]))

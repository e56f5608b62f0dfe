"""Contributions to a logit add up to it, and each is what the logit loses when that part alone is taken from the last stream."""

import json
from collections.abc import Callable
from dataclasses import replace
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import Tensor

from cutaway import LanguageModel, residual, run_with_cache
from cutaway.config import ModelConfig
from cutaway.model import Transformer
from cutaway.report import token_label
from cutaway.tokenizers import BPETokenizer, CharTokenizer, NoTokenizer

MakeModel = Callable[..., Transformer]
BYS = ("component", "head", "neuron", "position")

# float64: sums of some hundred terms of size 1 to 100, in another order
same = torch.testing.assert_close


def assert_same(found: Tensor, expected: Tensor) -> None:
    same(found, expected, rtol=0, atol=1e-9)


@pytest.fixture
def speaking(tiny_config: ModelConfig, make_model: MakeModel) -> LanguageModel:
    """A tiny model of 31 characters."""
    return LanguageModel(make_model(tiny_config), CharTokenizer.fit("abcdefghijklmnopqrstuvwxyz .,!?"))


@pytest.mark.parametrize("by", BYS)
def test_contributions_add_up_to_the_logit_difference(
    variant: ModelConfig, make_model: MakeModel, tokens: Tensor, by: residual.Part
) -> None:
    model = make_model(variant)
    if by == "neuron" and variant.d_mlp == 0:
        with pytest.raises(ValueError, match="no neurons: its blocks have attention alone"):
            residual.attribute(model, tokens, 1, 2, by=by)
        return
    logits = model(tokens)
    found = residual.attribute(model, tokens, [3, 5], [4, 4], by=by, pos=-2)
    expected = torch.stack([logits[0, -2, 3] - logits[0, -2, 4], logits[1, -2, 5] - logits[1, -2, 4]])
    assert_same(found.contributions.sum(dim=0), expected)
    assert_same(found.logit_diff, expected)
    has_constant = variant.unembed_bias or (variant.norm != "none" and variant.norm_bias)
    assert ("final bias" in found.labels) == has_constant
    assert len(set(found.labels)) == len(found.labels) == len(found.contributions)
    alone = residual.attribute(model, tokens, 3, by=by)
    assert_same(alone.contributions.sum(dim=0), logits[:, -1, 3])


@pytest.mark.parametrize("by", ["component", "head", "neuron"])
def test_each_is_what_the_logit_loses_without_it(
    causal_variant: ModelConfig, make_model: MakeModel, tokens: Tensor, by: residual.Part
) -> None:
    """Finite differences: the part is taken from the last stream, scaled down, in a run whose last norm divides as before."""
    by = "component" if causal_variant.d_mlp == 0 and by == "neuron" else by  # attention alone has no neurons
    model = make_model(causal_variant)
    found = residual.attribute(model, tokens, 3, 4, by=by)
    _, cache = run_with_cache(model, tokens)
    whole = cache.decompose_resid(heads=by == "head", neurons=by == "neuron")
    last, epsilon = causal_variant.n_layers - 1, 0.25
    for label in whole.labels[::7]:
        hooks = {f"blocks.{last}.resid_post": lambda x, _, part=whole[label]: x - epsilon * part}
        if causal_variant.norm != "none":
            hooks["ln_final.scale"] = lambda _x, _name: cache["ln_final.scale"]
        logits = model(tokens, hooks=hooks)[:, -1]
        lost = found.logit_diff - (logits[:, 3] - logits[:, 4])
        assert_same(found.contributions[found.labels.index(label)], lost / epsilon)


def test_sources_are_what_the_logit_loses_without_their_values(
    make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor
) -> None:
    """What all heads of a layer fetch from a position, written out, is taken from the last stream as above."""
    model = make_model(tiny_config)
    found = residual.attribute(model, tokens, 3, 4, by="position")
    _, cache = run_with_cache(model, tokens)
    before = found.logit_diff
    for source in range(9):
        parts = []
        for layer in range(2):
            W_O = model.blocks[layer].attn.W_O.weight
            fetched = torch.stack(
                [cache["pattern", layer][:, head, -1, source, None] * cache["v", layer][:, source, head] for head in range(4)],
                dim=1,
            )
            parts.append(fetched.flatten(1) @ W_O.T)  # batch head d_head -> batch d_model
        for each, expected_by_layer in [(sum(parts), None), *((part, layer) for layer, part in enumerate(parts))]:

            def without(x: Tensor, _name: str, each: Tensor = each) -> Tensor:
                x = x.clone()
                x[:, -1] -= each
                return x

            hooks = {"blocks.1.resid_post": without, "ln_final.scale": lambda _x, _name: cache["ln_final.scale"]}
            logits = model(tokens, hooks=hooks)[:, -1]
            lost = before - (logits[:, 3] - logits[:, 4])
            if expected_by_layer is None:
                assert_same(found.contributions[found.labels.index(f"pos {source}")], lost)
            else:
                assert_same(found.by_layer[expected_by_layer, source], lost.mean())


def test_finer_cuts_add_up_to_coarser_ones(make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor) -> None:
    model = make_model(tiny_config)
    coarse, heads, neurons = (residual.attribute(model, tokens, 3, 4, by=by) for by in ("component", "head", "neuron"))

    def total(found: residual.DirectAttribution, start: tuple[str, ...]) -> Tensor:
        return sum(found.contributions[place] for place, label in enumerate(found.labels) if label.startswith(start))

    for layer in range(2):
        assert_same(total(heads, (f"L{layer}H", f"L{layer} b_O")), total(coarse, (f"L{layer} attn",)))
        assert_same(total(neurons, (f"L{layer}N", f"L{layer} b_out")), total(coarse, (f"L{layer} mlp",)))
    assert heads.by_layer is not None
    assert_same(heads.by_layer[1, 2], heads.mean[heads.labels.index("L1H2")])
    assert coarse.by_layer is not None
    assert_same(coarse.by_layer[1], coarse.mean[[coarse.labels.index("L1 attn"), coarse.labels.index("L1 mlp")]])


@pytest.mark.parametrize("by", BYS)
def test_rows_filled_up_are_as_alone(make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor, by: residual.Part) -> None:
    model = make_model(tiny_config)
    both = residual.attribute(model, tokens, [3, 5], [4, 6], by=by, pos=[4, 8])
    first = residual.attribute(model, tokens[:1, :5], 3, 4, by=by)
    second = residual.attribute(model, tokens[1:], 5, 6, by=by)
    if by == "position":
        assert_same(both.contributions[:5, 0], first.contributions[:5, 0])
        assert not both.contributions[5:9, 0].any()
        assert_same(both.contributions[9:, 0], first.contributions[5:, 0])
    else:
        assert_same(both.contributions[:, :1], first.contributions)
    assert_same(both.contributions[:, 1:], second.contributions)


def test_a_model_with_dropout_is_read_without(tiny_config: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(replace(tiny_config, dropout=0.5))
    expected = model(tokens)[:, -1, 3]
    assert_same(residual.attribute(model.train(), tokens, 3).contributions.sum(dim=0), expected)
    assert model.training


def test_texts_and_their_answers(speaking: LanguageModel) -> None:
    found = residual.attribute(speaking, "the cat", "s", by="position")
    assert found.labels[:4] == ("0 t", "1 h", "2 e", f"3 {token_label(' ')}")
    assert found.prompts == ("the cat",)
    assert "The logit of s after 'the cat' is" in found.summary()
    own = residual.attribute(speaking, "the cat")
    best = speaking.model(speaking.tokens("the cat"))[0, -1].argmax().item()
    assert own.asked == f"logit of {token_label(speaking.text([best]))}"
    assert "The answer is the model's own" in own.summary().rpartition("All ")[2], "the result comes first"
    rows = speaking.tokens(["the cat", "the dog"])
    several = residual.attribute(speaking, rows, ["s", "e"], ["x", "y"])
    assert several.asked == "logit of the correct less that of the wrong answer"
    assert "on average over 2 prompts" in several.summary()


def test_many_answers_are_not_all_said(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    tokenizer = BPETokenizer.train("it is so as we go on up to me\n" * 40, 275)
    lm = LanguageModel(make_model(replace(tiny_config, d_vocab=275, d_vocab_out=275)), tokenizer)
    rows = lm.tokens(["it is"] * 4)
    assert residual.attribute(lm, rows[:2], ["so", "as"]).said == tuple(
        f"{word} is taken as ' {word}', with its space" for word in ("so", "as")
    )
    many = residual.attribute(lm, rows, ["so", "as", "we", "so"])
    assert many.said == ("so is taken as ' so', with its space, and so are 2 others",)


@pytest.mark.parametrize("by", BYS)
def test_texts_of_different_length_are_each_read_at_their_end(speaking: LanguageModel, by: residual.Part) -> None:
    texts = ["the cat sat", "a dog", "so it is"]
    together = residual.attribute(speaking, texts, "s", ["t", "x", "y"], by=by)
    assert together.prompts == tuple(texts)
    for row, (text, wrong) in enumerate(zip(texts, "txy", strict=True)):
        alone = residual.attribute(speaking, text, "s", wrong, by=by)
        assert_same(together.logit_diff[row], alone.logit_diff[0])
        if by != "position":
            assert_same(together.contributions[:, row], alone.contributions[:, 0])
    assert_same(together.contributions.sum(dim=0), together.logit_diff)


def test_what_cannot_be_asked_is_refused(speaking: LanguageModel, tokens: Tensor) -> None:
    with pytest.raises(ValueError, match="'is' is not one token but 2: 'i', 's'"):
        residual.attribute(speaking, "he ", "is")
    with pytest.raises(ValueError, match="there is no position 3; there are 3"):
        residual.attribute(speaking, "cat", "s", pos=3)
    with pytest.raises(ValueError, match="3 positions for 2 rows"):
        residual.attribute(speaking, tokens, 1, pos=[1, 2, 3])
    with pytest.raises(ValueError, match="3 answers for 2 prompts"):
        residual.attribute(speaking, tokens, [1, 2, 3])
    with pytest.raises(ValueError, match="a text needs a tokenizer"):
        residual.attribute(speaking.model, "cat", 1)
    with pytest.raises(ValueError, match="'s' is a text, which needs a tokenizer"):
        residual.attribute(speaking.model, tokens, "s")
    with pytest.raises(ValueError, match=r"the answer and the wrong answer are one token \(s\): give another wrong answer"):
        residual.attribute(speaking, "cat", "s", "s")
    with pytest.raises(ValueError, match=r"are one token \(3\)"):
        residual.attribute(speaking.model, tokens, [1, 3], [2, 3])
    with pytest.raises(ValueError, match=r"^\[\] is no text and no list of texts"):
        residual.attribute(speaking, [])
    with pytest.raises(ValueError, match="there is no position 2; there are 2"):
        residual.attribute(speaking, ["cat", "so"], "s", pos=2)
    with pytest.raises(ValueError, match="no logit of token 31"):
        residual.attribute(speaking.model, tokens, 31)


def test_a_model_without_tokenizer_shows_ids(speaking: LanguageModel, tokens: Tensor) -> None:
    for lm in (speaking.model, LanguageModel(speaking.model, NoTokenizer())):
        found = residual.attribute(lm, tokens[:1], 7, by="position")
        assert found.labels[0] == f"0 {tokens[0, 0]}"
        assert found.asked == "logit of 7"


@pytest.mark.parametrize("by", BYS)
def test_results_are_shown_everywhere(speaking: LanguageModel, by: residual.Part) -> None:
    found = residual.attribute(speaking, "the cat", "s", "t", by=by)
    console = Console(width=80, file=StringIO(), no_color=True)
    found.show(console)
    shown = console.file.getvalue()
    assert max(map(len, shown.split("\n\n", 1)[1].splitlines())) <= 80
    assert f"all {len(found.labels)}" in shown
    values = json.loads(found.to_json())
    parts = sum(part["mean"] for part in values["parts"])
    assert parts == pytest.approx(values["logit_diff"][0], abs=1e-9)
    assert len(found.figures()) == (1 if by == "neuron" else 2)


def test_json_of_many_parts_holds_the_greatest(speaking: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutaway.interp.residual.attribution._MOST_IN_JSON", 20)
    found = residual.attribute(speaking, "the cat", "s", by="neuron")
    values = found.to_dict()
    assert len(values["parts"]) == 20
    assert values["parts_left_out"] == len(found.labels) - 20
    total = sum(part["rows"][0] for part in values["parts"]) + values["sum_of_those_left_out"][0]
    assert total == pytest.approx(found.logit_diff.item(), abs=1e-9)
    assert {part["part"] for part in values["parts"]} == {label for label, _ in found.strongest(top=20)}

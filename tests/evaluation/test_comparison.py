"""Two models compared: KL and losses by their definitions, and a change of one matrix found where it was made."""

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.evaluation import compare
from cutaway.evaluation.comparison import relative_difference
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer

TEXT = "What a piece of work is a man! How noble in reason, how infinite in faculty! " * 2


def changed(lm: LanguageModel, parameter: str, by: float = 0.1) -> LanguageModel:
    model = copy.deepcopy(lm.model)
    with torch.no_grad():
        model.get_parameter(parameter).view(-1)[1] += by
    return LanguageModel(model, lm.tokenizer)


def logits_by_window(lm: LanguageModel, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([lm.model(window[None])[0] for window in tokens[:-1].split(64)])


def test_a_model_is_itself(byte_lm: LanguageModel) -> None:
    result = compare(byte_lm, byte_lm, TEXT)
    assert (result.kl, result.loss_difference, result.agreement, result.first_difference) == (0.0, 0.0, 1.0, None)
    assert result.finer == []
    assert [each.relative for each in result.layers] == [0.0] * 5
    assert "no activation differs by more than 1e-05" in str(result)


def test_losses_and_kl_by_their_definitions(byte_lm: LanguageModel) -> None:
    other = changed(byte_lm, "blocks.1.mlp.W_out.weight", by=3.0)
    tokens = byte_lm.tokens(TEXT)[0]
    p, q = (logits_by_window(lm, tokens).log_softmax(dim=-1) for lm in (byte_lm, other))
    result = compare(byte_lm, other, TEXT)
    assert len(result.positions) == len(tokens) - 1
    kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(dim=-1)
    # float64: sums over 257 terms
    assert [each.kl for each in result.positions] == pytest.approx(kl.tolist(), rel=1e-10, abs=1e-13)
    for each, log_probs in (("loss_a", p), ("loss_b", q)):
        losses = torch.nn.functional.nll_loss(log_probs, tokens[1:], reduction="none").tolist()
        assert [getattr(position, each) for position in result.positions] == pytest.approx(losses, rel=0, abs=1e-12)
    is_same = p.argmax(dim=-1) == q.argmax(dim=-1)
    assert result.agreement == pytest.approx(is_same.double().mean().item())
    assert 0 < result.agreement < 1
    assert result.kl == pytest.approx(kl.mean().item())
    assert "".join(each.token for each in result.positions) == TEXT[1:]


@pytest.mark.parametrize(
    ("parameter", "first"),
    [
        ("embed.W_E", "embed"),
        ("embed.pos_embed.W_pos", "pos_embed"),
        ("blocks.0.ln1.weight", "blocks.0.ln1.normalized"),
        ("blocks.0.attn.W_V.weight", "blocks.0.attn.v"),
        ("blocks.0.mlp.W_in.bias", "blocks.0.mlp.pre"),
        ("blocks.1.attn.W_K.weight", "blocks.1.attn.k"),
        ("blocks.1.attn.W_O.weight", "blocks.1.attn.result"),
        ("blocks.1.attn.W_O.bias", "blocks.1.attn_out"),
        ("blocks.1.mlp.W_out.weight", "blocks.1.mlp_out"),
        ("unembed.ln_final.weight", "ln_final.normalized"),
    ],
)
def test_where_they_part(byte_lm: LanguageModel, parameter: str, first: str) -> None:
    lm = byte_lm
    if parameter == "embed.W_E":
        with torch.no_grad():
            lm.model.embed.W_E[0] = 0.5  # the bytes of the text alone count
        other = copy.deepcopy(lm.model)
        with torch.no_grad():
            other.embed.W_E[lm.tokenizer.encode("W")[0], 0] += 0.1
        result = compare(lm, LanguageModel(other, lm.tokenizer), TEXT)
    else:
        result = compare(lm, changed(lm, parameter), TEXT)
    names = [each.name for each in result.layers]
    assert names == ["embed", "pos_embed", "blocks.0.resid_post", "blocks.1.resid_post", "logits"]
    before = {"embed": 0, "pos_embed": 1, "blocks.0": 2, "blocks.1": 3, "ln_final": 4}
    layer = before[first if first in before else first[:8]]
    assert [each.relative > 1e-5 for each in result.layers[: layer + 1]] == [False] * layer + [True]
    assert result.first_difference == first
    assert f"norm is {first}" in str(result)


def test_models_of_other_shapes_are_compared_by_their_predictions(
    byte_lm: LanguageModel, make_model: Callable[..., Transformer]
) -> None:
    other = LanguageModel(make_model(byte_lm.config.replace(n_layers=3, n_ctx=40)), byte_lm.tokenizer)
    result = compare(byte_lm, other, TEXT)
    assert result.layers == result.finer == []
    assert result.n_compared == 0
    assert result.kl > 0
    assert result.note == "the models have 2 layers of d_model 16 and 3 layers of d_model 16, so their activations are not compared"
    assert result.note in str(result)


def test_another_kind_of_block_is_compared_by_the_names_both_have(
    byte_lm: LanguageModel, make_model: Callable[..., Transformer]
) -> None:
    other = LanguageModel(make_model(byte_lm.config.replace(gated_mlp=True, n_heads=4, d_mlp=40)), byte_lm.tokenizer)
    result = compare(byte_lm, other, TEXT)
    assert result.first_difference == "embed"  # drawn from other places of the same stream of random numbers, or equal: then later
    assert json.loads(json.dumps(result.to_dict()))["kl"] == result.kl


def test_activations_are_compared_on_few_positions(
    byte_lm: LanguageModel, make_model: Callable[..., Transformer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block's scores and patterns grow with the square of the positions: on 8,192 they would take gigabytes."""
    seen: list[int] = []
    given = Transformer.forward

    def forward(model: Transformer, tokens: Tensor, **options: Any) -> Tensor:
        seen.append(tokens.shape[-1])
        return given(model, tokens, **options)

    lm = LanguageModel(make_model(byte_lm.config.replace(n_ctx=1024)), byte_lm.tokenizer)
    monkeypatch.setattr(Transformer, "forward", forward)
    result = compare(lm, changed(lm, "blocks.0.attn.W_V.weight"), TEXT * 3)
    assert max(seen) == 256  # and 1, to learn the names
    assert len(result.positions) == len(TEXT * 3) - 1 > 256
    assert (result.n_compared, result.first_difference) == (256, "blocks.0.attn.v")
    assert "activations are compared on the first 256 positions" in str(result)
    assert compare(byte_lm, byte_lm, TEXT).n_compared == 64
    assert compare(byte_lm, byte_lm, TEXT[:10]).n_compared == 10


def test_ids_are_read_as_they_are(byte_lm: LanguageModel) -> None:
    other = changed(byte_lm, "blocks.0.attn.W_V.weight")
    ids = byte_lm.tokens(TEXT)[0]
    assert compare(byte_lm, other, ids) == compare(byte_lm, other, ids.tolist()) == compare(byte_lm, other, TEXT)


def test_relative_differences() -> None:
    a = torch.tensor([3.0, 4.0, -math.inf])
    assert relative_difference(a, a) == 0.0
    assert relative_difference(a, torch.tensor([3.0, 3.5, -math.inf])) == pytest.approx(0.1)
    assert relative_difference(torch.zeros(3), torch.ones(3)) == math.inf
    assert relative_difference(torch.zeros(3), torch.zeros(3)) == 0.0


def test_refusals(byte_lm: LanguageModel, table_lm: Callable[..., LanguageModel], make_model: Callable[..., Transformer]) -> None:
    with pytest.raises(ValueError, match=r"the models have different tokenizers.*perplexity per byte"):
        compare(byte_lm, table_lm({"a": 1.0}), "a a")
    padded = LanguageModel(make_model(byte_lm.config.replace(d_vocab=300)), byte_lm.tokenizer)
    with pytest.raises(ValueError, match="the models have 257 and 300 logits"):
        compare(byte_lm, padded, TEXT)
    with pytest.raises(ValueError, match="nothing to predict"):
        compare(byte_lm, byte_lm, "a")
    both_ways = ModelConfig(**{**byte_lm.config.to_dict(), "is_causal": False})
    with pytest.raises(ValueError, match="does not predict the next token"):
        compare(byte_lm, LanguageModel(Transformer(both_ways), byte_lm.tokenizer), TEXT)

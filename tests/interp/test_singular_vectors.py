"""Singular vectors read through the vocabulary: of a head made by hand, and as the definition has them."""

import json
from collections.abc import Callable
from io import StringIO

import pytest
import torch

from cutaway.config import ModelConfig
from cutaway.interp import factored
from cutaway.interp.factored import singular_vectors
from cutaway.model import Transformer
from cutaway.tokenizers import CharTokenizer

MakeModel = Callable[..., Transformer]


@torch.no_grad()
def test_a_head_made_by_hand_is_read_off(tiny_config: ModelConfig) -> None:
    """The head moves a to x, strongly, and b to y, weakly; c to minus z is weaker still."""
    tokenizer = CharTokenizer.fit("abcdefghijxyz ")
    tokens = {text: tokenizer.encode(text)[0] for text in "abcxyz"}
    n_tokens = tokenizer.d_vocab
    model = Transformer(tiny_config.replace(d_vocab=n_tokens, norm="none", tie_embeddings=False)).double()
    model.embed.W_E.copy_(torch.eye(n_tokens, 16))
    model.unembed.W_U.weight.copy_(torch.eye(n_tokens, 16))
    attn = model.blocks[1].attn
    attn.W_V.weight.zero_()
    attn.W_O.weight.zero_()
    for coordinate, (source, target, strength) in enumerate((("a", "x", 3.0), ("b", "y", 2.0), ("c", "z", -1.0))):
        attn.W_V.weight[8 + coordinate, tokens[source]] = 1
        attn.W_O.weight[tokens[target], 8 + coordinate] = strength
    found = singular_vectors(model, 1, 2, n_vectors=3, n_tokens=1, tokenizer=tokenizer)
    torch.testing.assert_close(found.singular_values, torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64))
    ends = [(pair.number, pair.sign, pair.left[0].token, pair.right[0].token) for pair in found.pairs]
    assert ends[0] == (0, 1, "a", "x")
    assert ends[2] == (1, 1, "b", "y")
    third = found.pairs[4]
    assert third.right[0].token == "z"
    assert third.left[0].token != "c"  # looking at c makes z less likely
    assert found.pairs[5].left[0] == factored.TokenScore(tokens["c"], "c", -1.0)
    assert "The strongest reads a and writes x." in found.summary()


@torch.no_grad()
@pytest.mark.parametrize("circuit", ["ov", "qk"])
def test_tokens_are_those_of_the_definition(circuit: factored.Circuit, variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(variant)
    found = singular_vectors(model, -1, 3, circuit=circuit, offset=2, n_vectors=4, n_tokens=5)
    layer = variant.n_layers - 1
    assert (found.layer, found.head) == (layer, 3)
    assert found.offset == (2 if circuit == "qk" and variant.position == "rotary" else None)
    norm = model.unembed.ln_final
    if circuit == "ov":
        matrix = factored.ov_circuit(model, layer, 3, with_norm=True).AB
        write = factored.read_through(norm, model.unembed.W_U.weight.T).T
    else:
        matrix = factored.qk_circuit(model, layer, 3, offset=2, with_norm=True).AB
        write = model.embed.W_E
    U, S, Vh = torch.linalg.svd(matrix)
    torch.testing.assert_close(found.singular_values[:4], S[:4], rtol=0, atol=1e-11)
    for pair in found.pairs:
        left, right = model.embed.W_E @ U[:, pair.number], write @ Vh[pair.number]
        turn = 1.0 if right.max() > -right.min() else -1.0
        for side, scores in ((pair.left, left * turn), (pair.right, right * turn)):
            order = (pair.sign * scores).argsort(descending=True)[: len(side)]
            assert [each.token_id for each in side] == order.tolist()
            assert [each.token for each in side] == [str(token) for token in order.tolist()]
            expected = scores[order]
            torch.testing.assert_close(
                torch.tensor([each.score for each in side], dtype=torch.float64), expected, rtol=0, atol=1e-9
            )


def test_what_cannot_be_asked(tiny_model: Transformer, without_type_checks: None) -> None:
    with pytest.raises(ValueError, match="no circuit 'vo'; give 'ov' or 'qk'"):
        singular_vectors(tiny_model, 0, 0, circuit="vo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no layer 2: give 0 to 1"):
        singular_vectors(tiny_model, 2, 0)
    with pytest.raises(ValueError, match="no head 4: give 0 to 3"):
        singular_vectors(tiny_model, 0, 4)
    with pytest.raises(ValueError, match="0 vectors of"):
        singular_vectors(tiny_model, 0, 0, n_vectors=0)


def test_a_result_is_data_and_shows_itself(tiny_model: Transformer) -> None:
    from rich.console import Console

    found = singular_vectors(tiny_model, 0, 1)
    content = json.loads(found.to_json())
    assert content["pairs"][0]["left"][0]["token_id"] == found.pairs[0].left[0].token_id
    assert len(content["singular_values"]) == 4
    console = Console(width=80, record=True, color_system=None, force_terminal=True, file=StringIO())
    found.show(console)
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 80
    assert [row[0] for row in found.table()[1]] == ["0+", "0-", "1+", "1-", "2+", "2-", "3+", "3-"]
    assert len(found.figures()) == 3


def test_tokens_without_text_are_named_by_their_ids(tiny_model: Transformer) -> None:
    tokenizer = CharTokenizer.fit("abc")  # the model has 31 tokens, the tokenizer fewer
    found = singular_vectors(tiny_model, 0, 1, n_tokens=31, tokenizer=tokenizer)
    texts = {each.token_id: each.token for each in found.pairs[0].left}
    assert texts[0] == tokenizer.decode([0])
    assert texts[30] == "30"

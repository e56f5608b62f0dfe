"""Lengths and directions of the residual stream are those of vectors written out, and growth is found where it was put."""

import json
import math
from collections.abc import Callable
from io import StringIO

import pytest
import torch
from rich.console import Console
from torch import Tensor

from cutaway import residual, run_with_cache
from cutaway.config import ModelConfig
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import CharTokenizer

MakeModel = Callable[..., Transformer]


def assert_same(found: Tensor, expected: Tensor) -> None:
    """float64: means of products of size 1 to 100."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@torch.no_grad()
def test_numbers_are_those_of_the_vectors(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(variant)
    found = residual.stream(model, tokens)
    _, cache = run_with_cache(model, tokens)
    streams = [cache["resid_pre", layer] for layer in range(variant.n_layers)] + [cache["resid_post", -1]]
    assert_same(found.norms, torch.stack([x.square().sum(-1).sqrt().mean(0) for x in streams]))
    cosine = torch.cosine_similarity(streams[0][:, 1:], streams[-1][:, 1:], dim=-1).mean()
    assert_same(found.cosines[0, -1], cosine)
    assert_same(found.cosines.diagonal(), torch.ones(len(streams), dtype=torch.float64))
    assert found.shares.sum().item() == pytest.approx(1, abs=1e-12)
    place = found.parts.index("L1 attn")
    written, before = cache["attn_out", 1][:, 1:], cache["resid_pre", 1][:, 1:]
    assert_same(found.lengths[place], written.norm(dim=-1).mean())
    assert_same(found.along[place], ((written * before).sum(-1) / before.norm(dim=-1)).mean())
    final = streams[-1][:, 1:]
    assert_same(found.shares[place], ((written * final).sum(-1) / (final * final).sum(-1)).mean())
    if variant.d_mlp and variant.block == "sequential":
        place, written, before = found.parts.index("L1 mlp"), cache["mlp_out", 1][:, 1:], cache["resid_mid", 1][:, 1:]
        assert_same(found.along[place], ((written * before).sum(-1) / before.norm(dim=-1)).mean())


def with_norms(norms: Tensor) -> residual.ResidualStream:
    n_points, n_pos = norms.shape
    return residual.ResidualStream(
        points=tuple(f"L{layer} pre" for layer in range(n_points)),
        positions=tuple(map(str, range(n_pos))),
        norms=norms,
        cosines=torch.eye(n_points),
        parts=("embed",),
        lengths=torch.ones(1),
        along=torch.zeros(1),
        shares=torch.ones(1),
    )


def test_growth_is_found_where_it_was_put() -> None:
    layers = torch.arange(20, dtype=torch.float64)
    norms = torch.stack([torch.full((20,), 1e4).double(), 1.045**layers, 1.045**layers], dim=1)  # a first position far longer
    factor, fit = with_norms(norms).growth()
    assert factor == pytest.approx(1.045, abs=1e-12)
    assert fit == pytest.approx(1, abs=1e-12)
    roots = (layers + 1).sqrt()  # what independent parts of one size make
    factor, fit = with_norms(roots[:, None].expand(-1, 3)).growth()
    assert factor == pytest.approx(math.exp(torch.cov(torch.stack([layers, roots.log()]))[0, 1] / layers.var()), abs=1e-12)
    assert fit < 0.95
    assert with_norms(torch.ones(20, 3)).growth() == (1.0, 1.0)


def test_the_first_position_is_compared_within_one_layer() -> None:
    norms = torch.tensor([[2.0, 1.0, 1.0], [40.0, 1.0, 3.0], [60.0, 30.0, 50.0]]).double()  # 2, 20 and 1.5 times as long
    found = with_norms(norms)
    assert found.first_position() == (20.0, "L1 pre")
    assert "At the first position it is up to 20.0 times as long, at L1 pre." in found.summary()
    assert "first position" not in with_norms(torch.ones(3, 3)).summary()
    assert "first position" not in with_norms(torch.ones(3, 1)).summary()


def test_texts_are_of_one_length(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    lm = LanguageModel(make_model(tiny_config), CharTokenizer("abcdefghijklmnopqrstuvwxyz .!?\n"))
    assert_same(residual.stream(lm, ["abc", "def"]).norms, residual.stream(lm, lm.tokens(["abc", "def"])).norms)
    with pytest.raises(ValueError, match=r"the texts have \[2, 3\] tokens; means over positions need texts of as many each"):
        residual.stream(lm, ["abc", "de"])


def test_one_token_is_refused(tiny_model: Transformer) -> None:
    with pytest.raises(ValueError, match="the text is one token, and the first position is left out of the means"):
        residual.stream(tiny_model, torch.tensor([[3]]))


def test_no_layers(make_model: MakeModel) -> None:
    model = make_model(ModelConfig(d_vocab=31, n_ctx=12, n_layers=0, n_heads=2, d_model=8))
    found = residual.stream(model, torch.tensor([[3, 4]]))
    assert found.points == ("final",)
    assert found.shares.sum().item() == pytest.approx(1, abs=1e-12)
    assert found.summary()
    json.loads(found.to_json())


def test_results_are_shown_everywhere(variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    found = residual.stream(make_model(variant), tokens)
    console = Console(width=80, file=StringIO(), no_color=True)
    found.show(console)
    assert max(map(len, console.file.getvalue().split("\n\n", 1)[1].splitlines())) <= 80
    values = json.loads(found.to_json())
    assert values["growth_per_layer"] == pytest.approx(found.growth()[0])
    assert [part["part"] for part in values["parts"]] == list(found.parts)


def test_figures(make_model: MakeModel, tiny_config: ModelConfig, tokens: Tensor) -> None:
    assert len(residual.stream(make_model(tiny_config), tokens).figures()) == 4

"""Tools for two runs give the same whatever mode the model is in, and leave it in that."""

from collections.abc import Callable

import pytest
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp.attribution import attribution_patch
from cutaway.interp.paired_prompts import read_paired
from cutaway.interp.path_patching import path_patch
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import CharTokenizer

CLEAN, CORRUPTED = ["a cat on", "one foxx"], ["a horse on", "two foxy"]


def by_paths(lm: LanguageModel) -> Tensor:
    return path_patch(lm, CLEAN, CORRUPTED, "a", "b", senders=["L0H1", "mlp0"]).scores


def by_estimates(lm: LanguageModel) -> Tensor:
    found = attribution_patch(lm, CLEAN, CORRUPTED, "a", "b", kinds=("z",), exact_all=True)
    assert len(found.exact) == 8
    return found.estimates["z"]


@pytest.mark.parametrize("tool", [by_paths, by_estimates])
def test_dropout_is_off_and_the_mode_stays(tool: Callable[[LanguageModel], Tensor], make_model: Callable[..., Transformer]) -> None:
    config = ModelConfig(d_vocab=27, n_ctx=12, n_layers=2, n_heads=4, d_model=16, dropout=0.5)
    lm = LanguageModel(make_model(config), CharTokenizer("abcdefghijklmnopqrstuvwxyz "))
    plain = tool(lm)
    assert not lm.model.training
    lm.model.train()
    for _ in range(2):
        assert tool(lm).equal(plain)
        assert lm.model.training


def test_a_gap_that_only_dropout_makes_is_none(make_model: Callable[..., Transformer]) -> None:
    """Both runs are asked without it, so that prompts whose difference is never read are refused in training too."""
    config = ModelConfig(d_vocab=27, n_ctx=12, n_layers=1, n_heads=2, d_model=8, dropout=0.5)
    model = make_model(config)
    model.blocks[0].attn.W_O.weight.detach().zero_()
    lm = LanguageModel(model.train(), CharTokenizer("abcdefghijklmnopqrstuvwxyz "))
    with pytest.raises(ValueError, match="there is nothing to recover"):
        read_paired(lm, "a cat", "b cat", "a", "b", None, None)

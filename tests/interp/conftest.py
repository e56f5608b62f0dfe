"""What several of these tests begin with: a graph of the tiny model and its transcoders, and language models that read letters."""

from collections.abc import Callable
from typing import Any

import pytest

from cutaway import attribution_graphs
from cutaway.config import ModelConfig
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import CharTokenizer
from interp.patched_prompts import SIZES
from interp.small_transcoders import a_transcoder


@pytest.fixture
def transcoders(tiny_model):
    return [a_transcoder(tiny_model, 0, "relu"), a_transcoder(tiny_model, 1, "jumprelu", has_skip=True)]


@pytest.fixture
def graph(tiny_model, tokens, transcoders):
    return attribution_graphs.attribute(tiny_model, tokens[:1], transcoders)


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

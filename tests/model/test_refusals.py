"""What a model and its cache cannot do, they refuse in one sentence."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.model import KVCache, Transformer


def test_more_tokens_than_the_context(tiny_model: Transformer, make_tokens: Callable[..., Tensor]) -> None:
    tiny_model(make_tokens(n_pos=12))
    with pytest.raises(ValueError, match="13 tokens do not fit the context of n_ctx 12"):
        tiny_model(make_tokens(n_pos=13))


def test_more_tokens_than_the_context_after_those_kept(tiny_model: Transformer, make_tokens: Callable[..., Tensor]) -> None:
    kv = KVCache(tiny_model.config, batch=2, n_slots=20, dtype=torch.float64)
    tiny_model(make_tokens(n_pos=9), kv=kv)
    with pytest.raises(ValueError, match="13 tokens do not fit the context of n_ctx 12"):
        tiny_model(make_tokens(n_pos=4), kv=kv)


@pytest.mark.parametrize("ids", [[0, 31], [-1, 3]])
def test_ids_that_there_are_not(tiny_model: Transformer, ids: list[int]) -> None:
    with pytest.raises(ValueError, match=rf"ids from {min(ids)} to {max(ids)}; expected 0 to d_vocab - 1, 30"):
        tiny_model(torch.tensor([ids]))


def test_no_tokens(tiny_model: Transformer) -> None:
    with pytest.raises(ValueError, match="no tokens to run; give at least one"):
        tiny_model(torch.zeros(1, 0, dtype=torch.long))


def test_a_full_cache(tiny_model: Transformer, make_tokens: Callable[..., Tensor]) -> None:
    kv = KVCache(tiny_model.config, batch=2, n_slots=5, dtype=torch.float64)
    tiny_model(make_tokens(n_pos=4), kv=kv)
    with pytest.raises(ValueError, match="the cache has 5 slots and 6 positions are to be kept"):
        tiny_model(make_tokens(n_pos=2), kv=kv)


def test_a_cache_for_a_model_that_reads_both_ways(tiny_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="bidirectional"):
        KVCache(tiny_config.replace(is_causal=False))


def test_more_tokens_than_the_context_with_their_positions(tiny_model: Transformer, make_tokens: Callable[..., Tensor]) -> None:
    with pytest.raises(ValueError, match="13 tokens do not fit the context of n_ctx 12"):
        tiny_model(make_tokens(n_pos=13), positions=torch.arange(13))


def test_an_odd_width_has_no_sinusoids(tiny_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="even d_model"):
        Transformer(tiny_config.replace(position="sinusoidal", d_model=15, n_heads=3))

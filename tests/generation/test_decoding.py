"""Decoding with a cache, in batches, and past the context: always what full forward passes over the last `n_ctx` tokens say."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.generation import CachedDecoder, RowStreams, Sampling, decode, draw, shaped_log_probs
from cutaway.model import Transformer

MakeModel = Callable[..., Transformer]

GREEDY = Sampling(temperature=0.0)
SAMPLED = Sampling(temperature=1.0, top_k=20, top_p=0.95, repetition_penalty=1.1)
PROMPTS = [[3, 1, 4, 1, 5], [9, 2], [6, 5, 3, 5, 8, 9, 7, 9], [3]]
TOLERANCE = 1e-12  # float64: the same sums over up to 16 numbers of size 10, in another order


def rows_of(model: Transformer, prompts: list[list[int]], sampling: Sampling, n_new: int, **choices: Any) -> list[list[int]]:
    """What each row was given."""
    rows: list[list[int]] = [[] for _ in prompts]
    choices = {"tell": lambda sentence: None} | choices
    for chosen in decode(model, prompts, max_new_tokens=n_new, sampling=sampling, **choices):
        for row, token in chosen:
            rows[row].append(token)
    return rows


def next_logits(model: Transformer, row: list[int]) -> Tensor:
    """The oracle: a full forward pass over the last `n_ctx` tokens."""
    with torch.inference_mode():
        return model(torch.tensor([row[-model.config.n_ctx :]]))[0, -1]


def uncached(model: Transformer, prompt: list[int], sampling: Sampling, n_new: int, *, seed: int = 0) -> list[int]:
    row, streams = list(prompt), RowStreams(seed, [tuple(prompt)])
    for _ in range(n_new):
        log_probs = shaped_log_probs(next_logits(model, row)[None], sampling, seen=[row])
        row.append(int(draw(log_probs, streams.uniforms())))
    return row[len(prompt) :]


def test_cached_logits_are_those_of_full_passes_at_every_step(causal_variant: ModelConfig, make_model: MakeModel) -> None:
    """Rows of different lengths; after five steps one of them has outgrown the context, after eleven all but one."""
    model = make_model(causal_variant)
    told: list[str] = []
    decoder = CachedDecoder(model, PROMPTS, max_new_tokens=12, tell=told.append)
    generator = torch.Generator().manual_seed(0)
    rows = [list(prompt) for prompt in PROMPTS]
    n_told = []
    for step in range(12):
        if step == 0:
            logits = decoder.read_prompts()
        else:
            tokens = torch.randint(31, (len(rows),), generator=generator).tolist()
            rows = [[*row, token] for row, token in zip(rows, tokens, strict=True)]
            logits = decoder.append(tokens)
        n_told.append(len(told))
        expected = torch.stack([next_logits(model, row) for row in rows])
        torch.testing.assert_close(logits, expected, rtol=0, atol=TOLERANCE)
    assert n_told == [0] * 5 + [1] * 7
    assert decoder.rows == rows


def test_only_rows_too_long_read_windows(tiny_model: Transformer) -> None:
    """What is read past the context is the long row alone: the short one still adds a token at a time."""
    widths = []
    tiny_model.embed.register_forward_pre_hook(lambda module, args: widths.append(tuple(args[0].shape)))
    n_ctx = tiny_model.config.n_ctx
    decoder = CachedDecoder(tiny_model, [[1] * n_ctx, [2, 3]], max_new_tokens=3, tell=lambda sentence: None)
    with torch.inference_mode():
        decoder.read_prompts(), decoder.append([4, 5])
    assert widths == [(2, n_ctx), (1, 1), (1, n_ctx)]


def test_a_long_row_that_ends_leaves_the_others_their_room(tiny_model: Transformer) -> None:
    """The cache then counts from the longest row that is left, and there is room for its tokens up to the context's end."""
    n_ctx = tiny_model.config.n_ctx
    row = [2, 3]
    decoder = CachedDecoder(tiny_model, [[1] * (n_ctx - 1), row], max_new_tokens=n_ctx)
    with torch.inference_mode():
        decoder.read_prompts()
        decoder.select([1])
        for token in range(n_ctx - len(row)):
            row.append(token)
            logits = decoder.append([token])
            torch.testing.assert_close(logits, next_logits(tiny_model, row)[None], rtol=0, atol=TOLERANCE)


def test_rows_may_be_taken_twice_and_in_any_order_past_the_context(tiny_model: Transformer) -> None:
    rows = [[1] * 30, [2, 3], [4] * 3]
    decoder = CachedDecoder(tiny_model, rows, max_new_tokens=9, tell=lambda sentence: None)
    assert len(rows[0]) > tiny_model.config.n_ctx
    with torch.inference_mode():
        decoder.read_prompts()
        decoder.select([2, 0, 1, 0])
        logits = decoder.append([5, 6, 7, 8])
        expected = torch.stack([next_logits(tiny_model, row) for row in ([4, 4, 4, 5], [1] * 30 + [6], [2, 3, 7], [1] * 30 + [8])])
    torch.testing.assert_close(logits, expected, rtol=0, atol=TOLERANCE)


def test_rows_of_one_length_too(causal_variant: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(causal_variant)
    rows = tokens[:, :4].tolist()
    decoder = CachedDecoder(model, rows, max_new_tokens=6)
    logits = [decoder.read_prompts(), *(decoder.append(tokens[:, pos].tolist()) for pos in range(4, 9))]
    with torch.inference_mode():
        torch.testing.assert_close(torch.stack(logits, dim=1), model(tokens)[:, 3:], rtol=0, atol=TOLERANCE)


def test_rows_taken_again_and_in_another_order(causal_variant: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(causal_variant)
    decoder = CachedDecoder(model, PROMPTS, max_new_tokens=3)
    decoder.read_prompts()
    decoder.select([2, 0, 2])
    expected = [[*PROMPTS[2], 11], [*PROMPTS[0], 12], [*PROMPTS[2], 13]]
    got = decoder.append([11, 12, 13])
    assert decoder.rows == expected
    torch.testing.assert_close(got, torch.stack([next_logits(model, row) for row in expected]), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("n_new", [4, 14], ids=["within the context", "past the context"])
def test_a_batch_is_each_prompt_alone_and_uncached(tiny_model: Transformer, sampling: Sampling, n_new: int) -> None:
    together = rows_of(tiny_model, PROMPTS, sampling, n_new, seed=3)
    assert together == [rows_of(tiny_model, [prompt], sampling, n_new, seed=3)[0] for prompt in PROMPTS]
    assert together == [uncached(tiny_model, prompt, sampling, n_new, seed=3) for prompt in PROMPTS]
    assert [len(row) for row in together] == [n_new] * 4


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_prompt_longer_than_the_context(tiny_model: Transformer, make_tokens: Callable[..., Tensor], sampling: Sampling) -> None:
    long, short = make_tokens(1, 17)[0].tolist(), [5, 6]
    together = rows_of(tiny_model, [short, long], sampling, 5)
    assert together == [uncached(tiny_model, prompt, sampling, 5) for prompt in (short, long)]


def test_equal_prompts_are_continued_differently_when_sampled(tiny_model: Transformer) -> None:
    rows = rows_of(tiny_model, [[1, 2]] * 3, Sampling(temperature=2.0), 8)
    assert rows[0] != rows[1] != rows[2] != rows[0]
    rows = rows_of(tiny_model, [[1, 2]] * 3, GREEDY, 8)
    assert rows[0] == rows[1] == rows[2]


def test_seeds(tiny_model: Transformer) -> None:
    first = rows_of(tiny_model, PROMPTS, SAMPLED, 8, seed=1)
    assert rows_of(tiny_model, PROMPTS, SAMPLED, 8, seed=1) == first
    assert rows_of(tiny_model, PROMPTS, SAMPLED, 8, seed=2) != first


@pytest.mark.parametrize(
    ("prompts", "n_new", "n_told"),
    [
        ([[1] * 4], 9, 0),  # the last step reads 12 tokens, the whole context
        ([[1] * 4], 10, 1),
        ([[1] * 4], 20, 1),
        ([[1], [1] * 11, [2, 3]], 2, 0),
        ([[1], [1] * 11, [2, 3]], 6, 1),  # one row alone outgrows it
        ([[1] * 13], 3, 1),
    ],
)
def test_what_slides_is_told_once(tiny_model: Transformer, prompts: list[list[int]], n_new: int, n_told: int) -> None:
    told: list[str] = []
    rows_of(tiny_model, prompts, GREEDY, n_new, tell=told.append)
    sentence = "past the context of 12 tokens each new token reads the last 12 anew, which is slower"
    assert told == [sentence] * n_told


def test_without_a_listener_it_is_a_warning(tiny_model: Transformer) -> None:
    with pytest.warns(UserWarning, match="past the context of 12 tokens") as caught:
        list(decode(tiny_model, [[1] * 12], max_new_tokens=4, sampling=GREEDY))
    assert len(caught) == 1
    with warnings.catch_warnings(action="error"):
        list(decode(tiny_model, [[1] * 2], max_new_tokens=4, sampling=GREEDY))


def test_rows_end_when_they_are_done(tiny_model: Transformer) -> None:
    plain = rows_of(tiny_model, PROMPTS, SAMPLED, 8)
    lengths, asked = [3, 1, 5, 2], []
    counts = [0] * 4

    def is_done(row: int, token: int) -> bool:
        counts[row] += 1
        asked.append((row, token))
        return counts[row] == lengths[row]

    steps = list(decode(tiny_model, PROMPTS, max_new_tokens=8, sampling=SAMPLED, is_done=is_done))
    assert [[row for row, _ in step] for step in steps] == [[0, 1, 2, 3], [0, 2, 3], [0, 2], [2], [2]]
    assert [pair for step in steps for pair in step] == asked  # the token that ends a row is yielded, and none after it
    for row, length in enumerate(lengths):
        assert [token for step in steps for each, token in step if each == row] == plain[row][:length]


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(temperature=5.0)], ids=["greedy", "sampled"])
def test_ids_that_are_never_chosen(tiny_config: ModelConfig, make_model: MakeModel, sampling: Sampling) -> None:
    model = make_model(tiny_config.replace(unembed_bias=True))
    with torch.no_grad():
        model.unembed.W_U.bias[20:] += 50.0  # without the limit it would always be one of these
    assert {token for row in rows_of(model, PROMPTS, sampling, 8) for token in row} <= set(range(20, 31))
    assert {token for row in rows_of(model, PROMPTS, sampling, 8, never=range(20, 31)) for token in row} <= set(range(20))
    assert rows_of(model, [[30, 2]], sampling, 3, never=range(1, 31)) == [[0, 0, 0]]


def test_a_prompt_may_hold_ids_that_are_never_chosen(tiny_model: Transformer) -> None:
    rows = rows_of(tiny_model, [[30, 2]], Sampling(repetition_penalty=1.5), 8, never=range(10, 31))
    assert max(rows[0]) < 10


def test_no_new_tokens(tiny_model: Transformer) -> None:
    assert list(decode(tiny_model, PROMPTS, max_new_tokens=0, sampling=GREEDY)) == []


@pytest.mark.parametrize(
    ("prompts", "n_new", "sentence"),
    [
        ([[1]], -1, "max_new_tokens is -1; expected a whole number of at least 0"),
        ([[1]], -100, "max_new_tokens is -100; expected a whole number of at least 0"),
        ([[1], []], 3, "a prompt has no tokens; give at least one token to go on from"),
        ([], 3, "a prompt has no tokens"),
    ],
)
def test_refusals(tiny_model: Transformer, prompts: list[list[int]], n_new: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        list(decode(tiny_model, prompts, max_new_tokens=n_new, sampling=GREEDY))


def test_a_model_that_reads_both_ways_is_refused(tiny_config: ModelConfig) -> None:
    with pytest.raises(ValueError, match="reads both ways"):
        list(decode(Transformer(tiny_config.replace(is_causal=False)), [[1]], max_new_tokens=2, sampling=GREEDY))


def test_the_model_decodes_without_dropout_and_keeps_its_mode(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config.replace(dropout=0.5))
    expected = rows_of(model, PROMPTS, SAMPLED, 4)
    model.train()
    steps = decode(model, PROMPTS, max_new_tokens=4, sampling=SAMPLED)
    first = next(steps)
    assert all(module.training for module in model.modules())  # between the steps too
    rest = list(steps)
    assert all(module.training for module in model.modules())
    assert [[token for step in [first, *rest] for each, token in step if each == row] for row in range(4)] == expected
    with torch.inference_mode():
        tokens = torch.tensor([[1, 2, 3]])
        assert not torch.equal(model(tokens), model(tokens))  # this model in this mode does drop out


def test_a_generator_left_early_leaves_the_model_in_its_mode(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config).train()
    steps = decode(model, PROMPTS, max_new_tokens=6, sampling=GREEDY)
    next(steps)
    steps.close()
    assert model.training


@pytest.mark.parametrize("is_grad_enabled", [True, False])
def test_between_the_steps_the_callers_modes_hold(tiny_model: Transformer, tokens: Tensor, is_grad_enabled: bool) -> None:
    with torch.set_grad_enabled(is_grad_enabled):
        for _ in decode(tiny_model, PROMPTS, max_new_tokens=3, sampling=GREEDY):
            assert torch.is_grad_enabled() == is_grad_enabled
            assert not torch.is_inference_mode_enabled()
            assert tiny_model(tokens).requires_grad == is_grad_enabled
    tiny_model(tokens).sum().backward()  # nothing of the model was made a tensor without gradients


def test_the_weights_dtype_is_the_caches(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config, dtype=torch.bfloat16)
    assert [len(row) for row in rows_of(model, PROMPTS, SAMPLED, 14)] == [14] * 4

"""Batches: what is drawn follows from the seed and the batch's number alone, and validation sees every window once."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cutaway.data import Loader, TokenArray, cut_windows, read_shard, validation_batches, write_shard


@pytest.fixture
def tokens() -> TokenArray:
    """Each id is its own place, so that a window says where it is from."""
    return np.arange(50, dtype=np.uint16)


def test_targets_are_the_tokens_one_place_on(tokens: TokenArray) -> None:
    inputs, targets = Loader(tokens, batch_size=6, n_ctx=8, seed=0).next_batch()
    assert inputs.shape == targets.shape == (6, 8)
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.is_contiguous()
    assert targets.is_contiguous()
    assert torch.equal(inputs, inputs[:, :1] + torch.arange(8))  # a window of the text
    assert torch.equal(targets, inputs + 1)


def test_batch_i_is_a_function_of_the_seed_and_i(tokens: TokenArray) -> None:
    def drawn(seed: int, i: int) -> torch.Tensor:
        loader = Loader(tokens, batch_size=4, n_ctx=8, seed=seed)
        loader.load_state_dict({"seed": seed, "n_drawn": i})
        return loader.next_batch()[0]

    loader = Loader(tokens, batch_size=4, n_ctx=8, seed=3)
    in_order = [loader.next_batch()[0] for _ in range(5)]
    for i in (4, 0, 2, 3, 1):
        assert torch.equal(drawn(3, i), in_order[i])
    assert len({tuple(batch.flatten().tolist()) for batch in in_order}) == 5
    assert not torch.equal(drawn(4, 0), in_order[0])
    assert not torch.equal(drawn(4, 0), in_order[1])  # the seeds' sequences are not one sequence shifted


def test_the_global_random_state_is_neither_read_nor_changed(tokens: TokenArray) -> None:
    before = np.random.get_state()[1].copy(), torch.get_rng_state()
    Loader(tokens, batch_size=4, n_ctx=8, seed=3).next_batch()
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_loader_goes_on_where_another_stood(tokens: TokenArray) -> None:
    loader = Loader(tokens, batch_size=4, n_ctx=8, seed=3)
    for _ in range(7):
        loader.next_batch()
    state = json.loads(json.dumps(loader.state_dict()))
    other = Loader(tokens, batch_size=4, n_ctx=8, seed=99)
    other.next_batch()
    other.load_state_dict(state)
    for _ in range(3):
        assert torch.equal(other.next_batch()[0], loader.next_batch()[0])
    assert other.state_dict() == loader.state_dict()


def test_every_start_is_drawn_equally_often(tokens: TokenArray) -> None:
    inputs, targets = Loader(tokens, batch_size=8400, n_ctx=8, seed=0).next_batch()
    counts = inputs[:, 0].bincount(minlength=42)
    assert len(counts) == 42  # 0 to 41: the last window's last target is the last token
    assert targets.max() == 49
    assert ((counts - 200) ** 2 / 200).sum() < 75.0  # chi-square, 41 degrees of freedom: once in a thousand seeds


def test_cut_windows_are_pieces_in_their_order(tokens: TokenArray) -> None:
    whole = Loader(tokens, batch_size=3, n_ctx=8, seed=0).next_batch()
    inputs, targets = cut_windows(whole, 4)
    assert inputs.shape == targets.shape == (6, 4)
    assert torch.equal(inputs[::2], whole[0][:, :4])
    assert torch.equal(inputs[1::2], whole[0][:, 4:])
    assert torch.equal(targets, inputs + 1)
    assert torch.equal(cut_windows(whole, 8)[0], whole[0])


def test_a_text_of_one_window() -> None:
    tokens = np.arange(9, dtype=np.uint16)
    inputs, targets = Loader(tokens, batch_size=2, n_ctx=8, seed=0).next_batch()
    assert inputs.tolist() == [list(range(8))] * 2
    assert targets.tolist() == [list(range(1, 9))] * 2


def test_a_text_that_is_too_short() -> None:
    sentence = "the text is 8 tokens long and a window takes 9 .* give a longer text or a smaller n_ctx"
    with pytest.raises(ValueError, match=sentence):
        Loader(np.arange(8, dtype=np.uint16), batch_size=2, n_ctx=8, seed=0)
    with pytest.raises(ValueError, match=sentence):
        next(validation_batches(np.arange(8, dtype=np.uint16), batch_size=2, n_ctx=8))


def test_ids_of_32_bits_from_the_disk(tmp_path: Path) -> None:
    write_shard(tmp_path / "tokens.bin", np.arange(99_950, 100_000), d_vocab=100_000)
    inputs, targets = Loader(read_shard(tmp_path / "tokens.bin"), batch_size=3, n_ctx=4, seed=0).next_batch()
    assert inputs.min() >= 99_950
    assert torch.equal(targets, inputs + 1)


@pytest.mark.parametrize("n_tokens", [9, 16, 17, 49, 50, 57])
@pytest.mark.parametrize("batch_size", [1, 2, 4, 100])
def test_validation_tiles_the_text_once(n_tokens: int, batch_size: int) -> None:
    tokens = np.arange(n_tokens, dtype=np.uint16)
    batches = list(validation_batches(tokens, batch_size=batch_size, n_ctx=8))
    inputs = torch.cat([batch for batch, _ in batches])
    n_windows = (n_tokens - 1) // 8  # what is left over is shorter than a window and its last target
    assert inputs.flatten().tolist() == list(range(8 * n_windows))
    assert torch.equal(torch.cat([batch for _, batch in batches]), inputs + 1)
    assert n_tokens - 1 - 8 * n_windows < 8
    assert all(len(batch) == batch_size for batch, _ in batches[:-1])
    assert 0 < len(batches[-1][0]) <= batch_size


@pytest.mark.parametrize("max_windows", [1, 2, 3, 10, 99])
def test_some_windows_are_spread_over_the_text(max_windows: int) -> None:
    tokens = np.arange(100 * 8 + 1, dtype=np.uint16)
    starts = [
        start // 8
        for batch, _ in validation_batches(tokens, batch_size=4, n_ctx=8, max_windows=max_windows)
        for start in batch[:, 0].tolist()
    ]
    assert len(set(starts)) == len(starts) == max_windows
    assert starts == sorted(starts)
    assert starts[0] == 0
    if max_windows > 1:
        assert starts[-1] == 99
        gaps = np.diff(starts)
        assert gaps.max() - gaps.min() <= 1


def test_more_windows_than_there_are(tokens: TokenArray) -> None:
    def windows(max_windows: int | None) -> list[int]:
        batches = validation_batches(tokens, batch_size=4, n_ctx=8, max_windows=max_windows)
        return [token for batch, _ in batches for token in batch.flatten().tolist()]

    assert windows(6) == windows(1000) == windows(None)

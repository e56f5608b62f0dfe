"""Memory that is known beforehand."""

import pytest
import torch

from cutaway.measure import peak_bytes


def test_what_is_held_at_once_counts() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.ones(1000)

    def together() -> None:
        held = [torch.ones(1000) for _ in range(3)]
        assert len(held) == 3

    assert peak_bytes(one_after_the_other) == 4000
    assert peak_bytes(together) == 12_000


def test_views_and_what_is_known_do_not_count() -> None:
    weight = torch.ones(30, 40)
    assert peak_bytes(lambda: weight.T.reshape(40, 30)[:2], known=[weight]) == 0
    assert peak_bytes(lambda: weight.T.contiguous().view(-1), known=[weight]) == weight.nbytes


def test_it_counts_anew_each_time_and_ends_with_the_function() -> None:
    held = []
    assert peak_bytes(lambda: held.append(torch.ones(10))) == 40
    assert peak_bytes(lambda: None) == 0
    held.clear()


def test_what_the_backward_pass_needs_is_held_until_then() -> None:
    weight = torch.ones(50, 50, requires_grad=True)
    x = torch.ones(50, 50)
    with torch.no_grad():
        in_vain = peak_bytes(lambda: (x @ weight).tanh().tanh().tanh(), known=[weight, x])
    kept = peak_bytes(lambda: (x @ weight).tanh().tanh().tanh(), known=[weight, x])
    assert (in_vain, kept) == (20_000, 30_000)  # two at a time; or each that tanh keeps


@pytest.mark.parametrize("size", [10, 1000])
def test_an_error_leaves_nothing_on(size: int) -> None:
    def fail() -> None:
        torch.ones(size)
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        peak_bytes(fail)
    assert peak_bytes(lambda: torch.ones(size)) == 4 * size

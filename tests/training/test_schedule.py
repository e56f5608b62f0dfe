import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from cutaway.training.schedule import learning_rate, n_window_tokens


@pytest.mark.parametrize(("n_steps", "n_warmup_steps"), [(50, 10), (50, 1), (7, 6)])
def test_it_is_torch_s_linear_warmup_and_cosine(config, n_steps, n_warmup_steps):
    config = config.replace(n_steps=n_steps, n_warmup_steps=n_warmup_steps, learning_rate=3e-3, min_learning_rate=2e-4)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=3e-3)
    warmup = LinearLR(optimizer, start_factor=1 / (n_warmup_steps + 1), total_iters=n_warmup_steps)
    cosine = CosineAnnealingLR(optimizer, T_max=n_steps - n_warmup_steps, eta_min=2e-4)
    schedule = SequentialLR(optimizer, [warmup, cosine], milestones=[n_warmup_steps])
    expected = []
    for _ in range(n_steps):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert [learning_rate(step, config) for step in range(n_steps)] == pytest.approx(expected, rel=1e-12)


def test_a_line_is_torch_s(config):
    config = config.replace(n_steps=30, n_warmup_steps=0, schedule="linear", learning_rate=3e-3, min_learning_rate=6e-4)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=3e-3)
    line, expected = LinearLR(optimizer, start_factor=1.0, end_factor=0.2, total_iters=30), []
    for _ in range(30):
        expected.append(line.get_last_lr()[0])
        optimizer.step()
        line.step()
    assert [learning_rate(step, config) for step in range(30)] == pytest.approx(expected, rel=1e-9)
    assert learning_rate(30, config) == pytest.approx(6e-4)


def test_its_corners(config):
    config = config.replace(n_steps=21, n_warmup_steps=1, learning_rate=1.0, min_learning_rate=0.5)
    assert learning_rate(0, config) == 0.5
    assert learning_rate(1, config) == 1.0
    assert learning_rate(11, config) == pytest.approx(0.75)
    assert learning_rate(21, config) == learning_rate(1000, config) == 0.5


def test_without_warmup_it_begins_at_the_top(config):
    config = config.replace(n_warmup_steps=0, learning_rate=1.0)
    assert learning_rate(0, config) == 1.0


def test_a_warmup_longer_than_the_run_only_rises(config):
    config = config.replace(n_steps=5, n_warmup_steps=9, learning_rate=1.0)
    assert [learning_rate(step, config) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])


def test_windows_double_in_equal_stretches(config):
    config = config.replace(n_steps=9, n_first_window=4)  # of 16
    assert [n_window_tokens(step, config) for step in range(10)] == [4, 4, 4, 8, 8, 8, 16, 16, 16, 16]
    config = config.replace(n_steps=2, n_first_window=16)
    assert [n_window_tokens(step, config) for step in range(3)] == [16, 16, 16]
    assert n_window_tokens(0, config.replace(n_first_window=None)) == 16
    assert n_window_tokens(0, config.replace(n_first_window=1)) == 1


@pytest.mark.parametrize("n_tokens", [0, 3, 5, 12, 32, -4])
def test_a_first_window_is_the_window_halved(config, n_tokens):
    with pytest.raises(ValueError, match=f"n_first_window is {n_tokens}; expected the window, 16, halved some number of times"):
        config.replace(n_first_window=n_tokens)

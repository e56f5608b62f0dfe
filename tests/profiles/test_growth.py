"""Growth: bytes to the byte, times by parts that are known."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cutaway import costs, presets, profiles
from cutaway.config import ModelConfig
from cutaway.measure import Limits
from cutaway.profiles import Bench
from cutaway.profiles.growth import Law

TINY = {"d_vocab": 40, "n_ctx": 16, "n_layers": 2, "n_heads": 4, "d_model": 16}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.MODEL_PRESETS, "tiny", TINY)
    monkeypatch.setattr("cutaway.profiles.bench.measure_limits", lambda *_, **__: Limits(100.0, 10.0))


@pytest.fixture
def bench() -> Bench:
    return Bench(device=torch.device("cpu"), n_rounds=1)


def test_the_law_is_a_line_and_a_square_and_a_constant() -> None:
    config = ModelConfig(**TINY)
    rate = 7 * 4 * costs.n_parameters(config) / 3.0  # of bytes, so that an update takes 3 s
    law = Law(config=config, gflops_per_s=2.0, attention_gflops_per_s=0.5, read_gb_per_s=rate / 1e9)
    linear, square = 2 * (2 * 12 * 16**2 + 40 * 16) / 2e9, 2 * 4 * 16 / 0.5e9
    for n_pos in (1, 7, 100, 5000):
        assert law.forward_s(n_pos) == pytest.approx(linear * n_pos + square * n_pos**2)
        assert law.step_s(n_pos) == pytest.approx(3 * (linear * n_pos + square * n_pos**2) + 3.0)


def test_lengths_and_sizes(bench: Bench) -> None:
    growth = profiles.measure_growth(bench, preset="tiny", lengths=(8, 32), sizes=("gpt2", "gpt2-xl"))
    longer = ModelConfig(**TINY).replace(n_ctx=32)
    for cost, n_pos in zip(growth.lengths, (8, 32), strict=True):
        assert cost.n_pos == n_pos
        assert cost.forward_bytes == cost.law_forward_bytes == costs.forward_peak_bytes(longer, n_pos)
        assert cost.step_bytes == pytest.approx(costs.step_peak_bytes(longer, n_pos), rel=0.03)
        assert cost.forward_s is not None
        assert cost.forward_s > 0
        assert cost.step_s is not None
        assert cost.step_s > 0
    assert growth.law.update_s == pytest.approx(7 * 4 * costs.n_parameters(longer) / 10e9)
    by_name = {size.name: size for size in growth.sizes}
    assert by_name.keys() == {"gpt2", "gpt2-xl", "tiny"}
    assert by_name["tiny"].measured_train_state_bytes == by_name["tiny"].train_state_bytes
    assert by_name["gpt2-xl"].measured_train_state_bytes is None
    assert by_name["gpt2-xl"].kv_bytes_a_token == 2 * 48 * 1600 * 4
    assert 2 * by_name["gpt2"].n_parameters < by_name["gpt2"].flops_a_token < 2.5 * by_name["gpt2"].n_parameters
    small = replace(growth.law, config=ModelConfig.preset("gpt2"))
    assert by_name["gpt2"].law_forward_s == small.forward_s(1024)
    assert by_name["gpt2"].law_step_s - 3 * small.forward_s(1024) == pytest.approx(7 * 4 * by_name["gpt2"].n_parameters / 10e9)
    assert by_name["gpt2-xl"].law_forward_s > 10 * by_name["gpt2"].law_forward_s
    assert json.loads(json.dumps(growth.record()))["lengths"][1]["n_pos"] == 32


def test_what_does_not_fit_is_left_to_the_law(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = ModelConfig(**TINY).replace(n_ctx=4000)
    room = costs.forward_peak_bytes(config, 4000) / 0.8 * 1.01 / 2**30
    monkeypatch.setattr("cutaway.profiles.growth.free_memory_gib", lambda _: room)
    growth = profiles.measure_growth(bench, preset="tiny", lengths=(8, 4000), sizes=())
    short, long = growth.lengths
    assert short.step_s is not None
    assert long.forward_s is not None
    assert (long.step_s, long.step_bytes) == (None, None)
    assert long.law_step_bytes > long.law_forward_bytes
    figure = profiles.growth_figure(growth)
    figure.savefig(tmp_path / "growth.png")
    assert [axes.get_xscale() for axes in figure.axes] == ["log"] * 4


def test_the_figure_has_a_line_for_each_law_and_a_point_for_what_was_measured(bench: Bench) -> None:
    growth = profiles.measure_growth(bench, preset="tiny", lengths=(4, 8, 16), sizes=("gpt2",))
    times, memory, times_by_size, sizes = profiles.growth_figure(growth).axes
    assert [len(line.get_xdata()) for line in times.lines] == [3, 3, 3, 3]
    assert len(memory.lines) == 5
    assert [len(line.get_xdata()) for line in times_by_size.lines if len(line.get_xdata())] == [2, 2]  # nothing had 1,024 tokens
    assert [len(line.get_xdata()) for line in sizes.lines] == [2, 1, 2, 2]
    pattern = memory.lines[-1]
    slope = math.log(pattern.get_ydata()[-1] / pattern.get_ydata()[0]) / math.log(4)
    assert slope == pytest.approx(2)


def test_other_shapes_and_no_lengths_are_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match=r"^growth knows what activations take for shapes like GPT-2's, and smollm2-135m is none"):
        profiles.measure_growth(bench, preset="smollm2-135m")
    with pytest.raises(ValueError, match=r"^the lengths are \[\]; expected at least one of at least 1$"):
        profiles.measure_growth(bench, preset="tiny", lengths=())


def test_a_model_too_large_is_refused_before_it_is_made(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutaway.language_model.free_memory_gib", lambda _: 8.0)
    with pytest.raises(ValueError, match=r"^gpt2-xl needs 23\.2 GiB of memory for .* and 8\.0 are free"):
        profiles.measure_growth(bench, preset="gpt2-xl", lengths=(8,))

"""What a run says of its speed: by hand from the record, on the line that a person sees, and in all processes together."""

import io
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from cutaway.flops import training_flops
from cutaway.ranks import Ranks
from cutaway.runs import Run
from cutaway.training import pace as pace_module
from cutaway.training import train
from cutaway.training.pace import Pace
from cutaway.training.progress import ProgressLine
from tiny_training import tiny_config

NUMBERS = {"loss": 3.2341, "tokens_per_s": 1.56e6, "flops_per_s": 4.123e14, "share_of_peak": 0.431, "memory_gib": 62.314}


def test_figures_are_of_the_time_since_the_last_but_for_looking(play, monkeypatch):
    config, now = tiny_config(play), 100.0
    pace = Pace(config, torch.device("cpu"), Ranks(), dtype=torch.float32)
    monkeypatch.setattr(pace_module, "time", SimpleNamespace(perf_counter=lambda: now))
    pace.begin()
    for n_steps, took_s in ((1, 0.5), (3, 0.25)):
        for _ in range(n_steps):
            now += took_s  # waiting for data and queued work are in it
            pace.count_step(16)
        with pace.looking():
            now += 7.0
        found = pace.figures()
        assert found["tokens_per_s"] == pytest.approx(4 * 2 * 16 / took_s)
        assert found["flops_per_s"] == pytest.approx(4 * 2 * training_flops(config.model, 16) / took_s)
        assert found["share_of_peak"] == found["flops_per_s"] / pace.peak_flops_per_s
        assert 0.01 < found["memory_gib"] < 100


def test_every_record_has_them(config):
    run = Run(train(config, quiet=True))
    for record in run.metrics().records[1:]:
        per_token = record["flops_per_s"] / record["tokens_per_s"]
        assert per_token == pytest.approx(training_flops(run.model_config, 16) / 16)
        assert 0 < record["share_of_peak"] < 1  # so small a model is far from it


def shown(width, *, n_steps, numbers):
    """Return the moving line, and those that stay."""
    console = Console(width=width, file=io.StringIO(), force_terminal=False)
    line = ProgressLine(tiny_config("play.txt", n_steps=n_steps), console=console)
    for step in (n_steps // 2, n_steps // 2 + 1):
        line({"step": step, **numbers} | ({"val_loss": 3.4} if step % 2 else {}))
    with console.capture() as moving:
        console.print(line._progress.get_renderable())
    return moving.get().splitlines(), console.file.getvalue().splitlines()


@pytest.mark.parametrize("n_steps", [2000, 600_000])
@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_line_fits(width, n_steps):
    (moving,), (staying,) = shown(width, n_steps=n_steps, numbers=NUMBERS)
    assert len(moving) <= width
    assert len(staying) <= width
    for figure in ("loss 3.234", "412 TFLOP/s (43%)", "62.31 GiB", "left", "━━━"):
        assert figure in moving
    assert "…" not in moving
    for figure in ("loss 3.234", "val 3.400", "1.6M tokens/s", "62.31 GiB"):
        assert figure in staying
    assert ("tokens/s" in moving and "TFLOP/s" in staying) == (width > 80)


def test_a_narrow_line_keeps_the_loss():
    (moving,), (staying,) = shown(40, n_steps=2000, numbers=NUMBERS)
    assert "loss 3.234" in moving
    assert "loss 3.234" in staying


def test_a_notebook_gets_the_lines_that_stay(monkeypatch, capsys, recwarn):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)  # where rich's own line asks for ipywidgets
    with ProgressLine(tiny_config("play.txt", n_steps=10)) as line:
        line({"step": 5, **NUMBERS, "val_loss": 3.4})
    assert "val 3.400" in capsys.readouterr().err
    assert not [warning for warning in recwarn if "ipywidgets" in str(warning.message)]

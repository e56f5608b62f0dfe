"""The pieces of shakespeare-fast arrive where they work, and it is no larger than what it is compared with."""

import torch

from cutaway.model import Transformer
from cutaway.training import TrainConfig, train
from cutaway.training import trainer as trainer_module
from tiny_training import tiny_config


def n_parameters(preset):
    with torch.device("meta"):
        return sum(weight.numel() for weight in Transformer(TrainConfig.preset(preset).model).parameters())


def test_it_is_smaller_than_the_baby_gpt():
    assert n_parameters("shakespeare-fast") == 4 * 12 * 96**2 + 65 * 96 + 9 * 96
    assert n_parameters("shakespeare-fast") < n_parameters("shakespeare-char")


def test_it_differs_from_the_baby_gpt_in_its_pieces_alone():
    fast, char = (TrainConfig.preset(name).to_dict() for name in ("shakespeare-fast", "shakespeare-char"))
    assert {name for name in fast if fast[name] != char[name]} == {
        *("name", "model", "n_steps", "batch_size", "n_first_window", "learning_rate", "min_learning_rate", "schedule"),
        *("n_warmup_steps", "optimizer", "compile", "n_validation_windows"),
    }
    assert fast["n_validation_windows"] is None  # it is held against a loss over all of them


def test_windows_are_cut_in_the_first_steps_and_whole_in_the_last(play, tmp_path, monkeypatch):
    shapes = []

    class Watching(trainer_module.TrainStep):
        def __call__(self, batches, *, learning_rate):
            shapes.append({tuple(x.shape) for batch in batches for x in batch})
            return super().__call__(batches, learning_rate=learning_rate)

    monkeypatch.setattr(trainer_module, "TrainStep", Watching)
    train(tiny_config(play, n_first_window=4, n_steps=6, batch_size=2, out=str(tmp_path / "run")), quiet=True)
    assert shapes == [{(8, 4)}] * 2 + [{(4, 8)}] * 2 + [{(2, 16)}] * 2

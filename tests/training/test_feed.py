"""Batches drawn ahead are those drawn one by one, and nobody can tell from the state how far ahead that was."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cutaway.data import Loader
from cutaway.runs import Run
from cutaway.training import TrainingError, train, trainer
from cutaway.training.feed import Feed
from tiny_training import learned

CPU = torch.device("cpu")


def loader():
    return Loader(np.arange(300, dtype=np.uint16), batch_size=3, n_ctx=8, seed=5)


@pytest.mark.parametrize("ahead", [(True,) * 6, (False,) * 6, (True, False, False, True, True, False)])
def test_whatever_is_drawn_ahead_the_batches_and_the_state_are_the_same(ahead):
    plain, feed = loader(), Feed(loader(), CPU, n_batches=2)
    for draws in ahead:
        assert feed.state == plain.state_dict()
        if draws:
            feed.draw_ahead()
            assert feed.state == plain.state_dict()
        for inputs, targets in feed.take():
            expected = plain.next_batch()
            assert torch.equal(inputs, expected[0])
            assert torch.equal(targets, expected[1])


def test_what_cannot_be_drawn_is_said_when_it_is_needed():
    class Failing(Loader):
        def next_batch(self, device="cpu"):
            if self._n_drawn == 3:
                raise OSError("gone")
            return super().next_batch(device)

    feed = Feed(Failing(np.arange(300, dtype=np.uint16), batch_size=3, n_ctx=8, seed=5), CPU, n_batches=2)
    feed.take()
    feed.draw_ahead()
    assert feed.state["n_drawn"] == 2
    with pytest.raises(OSError, match="gone"):
        feed.take()


def test_nothing_is_drawn_after_the_last_step(config, monkeypatch):
    drawn = []
    next_batch = Loader.next_batch
    monkeypatch.setattr(Loader, "next_batch", lambda self, device="cpu": drawn.append(0) or next_batch(self, device))
    train(config, quiet=True)
    assert len(drawn) == config.n_steps * config.n_accumulate


def test_steps_that_nobody_logs_change_nothing(config):
    every, some = train(config, quiet=True), train(config.replace(log_every=5, sample_every=0), quiet=True)
    weights = {name: value for name, value in learned(every).items() if ".safetensors" in name}
    assert weights == {name: value for name, value in learned(some).items() if ".safetensors" in name}
    logged = {record["step"]: record["loss"] for record in learned(every)["logged"]}
    assert all(record["loss"] == logged[record["step"]] for record in learned(some)["logged"])


@pytest.mark.parametrize("log_every", [1, 4, 100])
def test_the_step_whose_loss_is_not_finite_is_named_whenever_it_is_read(config, monkeypatch, log_every):
    rate = trainer.learning_rate
    monkeypatch.setattr(trainer, "learning_rate", lambda step, config: float("nan") if step == 4 else rate(step, config))
    config = config.replace(log_every=log_every, validate_every=12, save_every=3, n_accumulate=1)
    with pytest.raises(TrainingError, match=r"loss is nan after step 6, so training stopped; the checkpoint of step 3 is whole"):
        train(config, quiet=True)
    assert [checkpoint.step for checkpoint in Run(Path("runs/run")).checkpoints()] == [0, 3]

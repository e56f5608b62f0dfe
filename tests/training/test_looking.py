"""What is looked at while training: the validation loss, observers, samples, and where the numbers go."""

import json
import math
import sys
from itertools import pairwise

import pytest
import torch

import cutaway
from cutaway.data import split_tokens
from cutaway.model import Transformer
from cutaway.runs import Run, read_metrics
from cutaway.runtime import seeded_generator
from cutaway.training import resume, train, validation_loss
from cutaway.training.observers import weight_norms
from tiny_training import tiny_config


@pytest.fixture
def long_tokens():
    return torch.randint(13, (16 * 11 + 5,), generator=seeded_generator(2)).numpy().astype("uint16")


def plain_loss(model, tokens, windows):
    losses = []
    for window in windows:
        row = torch.from_numpy(tokens[16 * window : 16 * window + 17].astype("int64"))
        with torch.no_grad():
            log_probs = model(row[None, :-1]).double().log_softmax(dim=-1)[0]
        losses += [-log_probs[pos, row[pos + 1]].item() for pos in range(16)]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_validation_is_every_window_once_without_dropout(play, long_tokens, batch_size):
    model = Transformer(tiny_config(play, d_vocab=13, dropout=0.5).model, generator=seeded_generator(1)).train()
    found = validation_loss(model, long_tokens, batch_size=batch_size)
    assert model.training
    assert found == pytest.approx(plain_loss(model.eval(), long_tokens, range(11)), abs=1e-6)


def test_fewer_windows_are_spread_evenly(play, long_tokens):
    model = Transformer(tiny_config(play, d_vocab=13).model, generator=seeded_generator(1)).eval()
    found = validation_loss(model, long_tokens, max_windows=3)
    assert found == pytest.approx(plain_loss(model, long_tokens, [0, 5, 10]), abs=1e-6)


def test_the_last_validation_loss_is_that_of_the_model_saved(config, play):
    folder = train(config, quiet=True)
    lm = cutaway.load(folder)
    ids = torch.tensor(lm.tokenizer.encode(play.read_text())).numpy().astype("uint16")
    _, validation = split_tokens(ids)
    assert Run(folder).metrics().last("val_loss") == pytest.approx(
        plain_loss(lm.model, validation, range((len(validation) - 1) // 16)), abs=1e-6
    )


def test_metrics_are_one_object_a_step(config):
    folder = train(config, quiet=True)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == list(range(13))
    for record in records[1:]:
        assert record.keys() >= {"step", "tokens", "loss", "lr", "grad_norm", "tokens_per_s", "time_s"}
        assert record["tokens"] == record["step"] * 4 * 2 * 16
    assert [record["step"] for record in records if "val_loss" in record] == [0, 4, 8, 12]
    assert [record["step"] for record in records if "sample" in record] == [0, 12]  # 6 is no step of validation
    assert all(later["time_s"] > earlier["time_s"] for earlier, later in pairwise(records))
    assert records[0]["val_loss"] == pytest.approx(math.log(Run(folder).model_config.d_vocab), abs=0.1)


def test_only_every_so_many_steps_are_logged(config):
    folder = train(config.replace(log_every=5, validate_every=6), quiet=True)
    assert [record["step"] for record in Run(folder).metrics().records] == [0, 5, 6, 10, 12]


def test_samples_follow_from_the_model_and_the_seed(config):
    folder = train(config, quiet=True)
    sample = Run(folder).metrics().last("sample")
    with pytest.warns(UserWarning, match="past the context of 16 tokens"):
        assert sample == cutaway.load(folder).generate("\n", max_new_tokens=200, seed=0)


def test_no_samples_when_none_are_wanted(config):
    assert Run(train(config.replace(sample_every=0), quiet=True)).metrics().last("sample") is None


def test_training_learns(config):
    folder = train(config.replace(n_steps=150, learning_rate=0.02, validate_every=150, save_every=150), quiet=True)
    losses = Run(folder).metrics().curve("val_loss")[1]
    assert losses[1] < losses[0] - 0.7


def test_observers_are_logged_under_their_names(config):
    seen = []

    def largest(step, model):
        seen.append(step)
        return {"largest_weight": max(weight.abs().max().item() for weight in model.parameters())}

    folder = train(config.replace(watch=("norms",), watch_every=4), observers={"largest": largest}, quiet=True)
    assert seen == [0, 4, 8, 12]
    metrics = Run(folder).metrics()
    assert metrics.curve("largest_weight")[0] == seen
    lm = cutaway.load(folder)
    for name, weight in {"norms.W_E": lm.model.embed.W_E, "norms.W_in": lm.model.blocks[0].mlp.W_in.weight}.items():
        assert metrics.curve(name)[0] == seen
        assert metrics.last(name) == pytest.approx(weight.double().square().sum().sqrt().item(), rel=1e-5)


def test_norms_are_averaged_over_layers(play):
    model = Transformer(tiny_config(play, n_layers=3).model, generator=seeded_generator(1))
    expected = sum(block.attn.W_Q.weight.norm().item() for block in model.blocks) / 3
    assert weight_norms(0, model)["norms.W_Q"] == pytest.approx(expected)


def test_an_unknown_observer_is_refused_before_anything_is_written(config, tmp_path):
    with pytest.raises(ValueError, match="there is no observer 'nroms'; did you mean 'norms'\\? there are norms"):
        train(config.replace(watch=("nroms",)), quiet=True)
    assert not (tmp_path / "runs").exists()


def test_tensorboard_reads_the_same_numbers(config):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(config.replace(tensorboard=True), quiet=True)
    resume(folder, n_steps=16, quiet=True)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    metrics = Run(folder).metrics()
    for name in ("loss", "val_loss", "lr", "grad_norm"):
        steps, values = metrics.curve(name)
        scalars = events.Scalars(name)
        assert [scalar.step for scalar in scalars] == steps
        assert [scalar.value for scalar in scalars] == pytest.approx(values, rel=1e-6)
    texts = events.Tensors("sample/text_summary")
    assert texts[-1].tensor_proto.string_val[0].decode() == metrics.last("sample")


def test_a_missing_tensorboard_is_said_before_anything_is_written(config, tmp_path, monkeypatch):
    folder = train(config, quiet=True)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"tensorboard is not installed: pip install 'cutaway\[tensorboard\]'"):
        train(config.replace(tensorboard=True, out=str(tmp_path / "other")), quiet=True)
    assert not (tmp_path / "other").exists()
    before = (folder / "config.json").read_text()
    with pytest.raises(ValueError, match="tensorboard is not installed"):
        resume(folder, tensorboard=True)
    assert (folder / "config.json").read_text() == before


def test_what_is_not_finite_is_null_in_the_file(config):
    folder = train(
        config, observers={"odd": lambda step, model: {"none": float("nan"), "all": float("inf"), "one": 1.0}}, quiet=True
    )
    lines = (folder / "metrics.jsonl").read_text().splitlines()

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    first = json.loads(lines[0], parse_constant=refuse)
    assert (first["none"], first["all"], first["one"]) == (None, None, 1.0)
    assert read_metrics(folder / "metrics.jsonl").note is None

"""The loop moves weights as torch's AdamW does, its rate goes as it says, and curves are what was watched."""

import math
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from cutaway import ModelConfig, Transformer
from cutaway.experiments.frame import Curves, Recipe, Trial, learn
from cutaway.training import TrainingError


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.tensor([2.0, -3.0]))


def test_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(n_steps=10, learning_rate=1.0, n_warmup_steps=3, n_decay_steps=4)
    assert [recipe.rate(step) for step in range(10)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


def test_learns_as_a_loop_of_torch_does() -> None:
    point, theirs = Point(), Point()
    recipe = Recipe(n_steps=20, learning_rate=0.1, beta1=0.8, beta2=0.9, weight_decay=0.5)
    learn(point, lambda step: ((point.x - step / 20) ** 2).sum(), recipe)
    optimizer = torch.optim.AdamW([theirs.x], lr=0.1, betas=(0.8, 0.9), weight_decay=0.5)
    for step in range(20):
        optimizer.zero_grad()
        ((theirs.x - step / 20) ** 2).sum().backward()
        optimizer.step()
    torch.testing.assert_close(point.x, theirs.x, rtol=0, atol=1e-6)  # fused sums in another order


def test_watches_before_between_and_after() -> None:
    point, seen = Point(), []

    def watch(step: int) -> dict[str, float]:
        assert not torch.is_grad_enabled()
        seen.append(step)
        return {"x": point.x[0].item()}

    curves = learn(point, lambda _: (point.x**2).sum(), Recipe(n_steps=10, learning_rate=0.1), watch=watch, watch_every=4)
    assert seen == [0, 4, 8, 10]
    steps, values = curves["x"]
    assert steps.tolist() == [0, 4, 8, 10]
    assert values[0] == 2.0
    assert curves["loss"].shape == (2, 10)
    assert curves["loss"][1, 0] == 13.0


def test_weights_are_kept_where_asked(tmp_path) -> None:
    trial, recipe = Trial(seed=0, folder=tmp_path), Recipe(n_steps=4, learning_rate=0.1)
    point = Point()
    curves = trial.learn("point", point, lambda _: (point.x**2).sum(), recipe, keep=(0, 3, 4))
    assert list(curves.kept) == [0, 3, 4]
    assert curves.kept[0]["x"].tolist() == [2.0, -3.0]
    torch.testing.assert_close(curves.kept[4]["x"], point.x.detach(), rtol=0, atol=0)
    assert curves.kept[3]["x"][0] > curves.kept[4]["x"][0]
    again = trial.learn("point", Point(), lambda _: torch.tensor(0.0), recipe)
    assert again.points == curves.points
    assert list(again.kept) == [0, 3, 4]
    torch.testing.assert_close(again.kept[3], curves.kept[3], rtol=0, atol=0)


def test_gradients_may_be_adjusted() -> None:
    point = Point()

    def keep_the_second() -> None:
        assert point.x.grad is not None
        point.x.grad[1] = 0.0

    learn(point, lambda _: (point.x**2).sum(), Recipe(n_steps=5, learning_rate=0.1), adjust=keep_the_second)
    assert point.x[1] == -3.0
    assert point.x[0] < 2.0


def test_a_loss_without_end_stops_it() -> None:
    point = Point()
    with pytest.raises(TrainingError, match="nan after step 3"):
        learn(point, lambda step: point.x.sum() * (math.nan if step == 3 else 1.0), Recipe(n_steps=9, learning_rate=0.1))


def test_curves_are_rows_of_steps_and_values() -> None:
    curves = Curves()
    curves.add(0, {"a": 1.0})
    curves.add(5, {"a": 2.0, "b": 3.0})
    assert curves["a"].tolist() == [[0, 5], [1, 2]]
    assert curves["b"].tolist() == [[5], [3]]


RECIPE = Recipe(n_steps=12, learning_rate=0.01, weight_decay=0.1, n_warmup_steps=3, n_decay_steps=4, max_grad_norm=0.5)


def train(folder, *, stop_at: int | None = None, recipe: Recipe = RECIPE, sources: str = "as it is"):
    """Train a transformer on random tokens, somebody pressing Ctrl-C at a step; give it, its curves and the steps that ran."""
    trial = Trial(seed=0, folder=folder, save_every_s=0.0, sources=sources)
    shape = ModelConfig(d_vocab=5, n_ctx=4, n_layers=1, n_heads=2, d_model=8, d_mlp=12)
    model, ran = Transformer(shape, generator=trial.generator("weights")), []

    def loss(step: int) -> torch.Tensor:
        if step == stop_at:
            raise KeyboardInterrupt
        ran.append(step)
        tokens = torch.randint(5, (3, 4), generator=trial.generator("batch", step))
        return nn.functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())

    def watch(step: int) -> dict[str, float]:
        return {"norm": model.embed.W_E.norm().item()}

    return model, trial.learn("model", model, loss, recipe, watch=watch, watch_every=3, keep=(2, 9)), ran


@pytest.mark.parametrize("stops", [(7,), (3, 6, 11), (0, 1)])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(tmp_path, stops) -> None:
    model, curves, _ = train(tmp_path / "whole")
    for stop in stops:
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "stopped", stop_at=stop)
    assert (tmp_path / "stopped" / "model.unfinished.safetensors").is_file()
    again, theirs, ran = train(tmp_path / "stopped")
    assert ran == list(range(stops[-1], 12))
    assert [file.name for file in (tmp_path / "stopped").iterdir()] == ["model.safetensors"]
    assert theirs.points == curves.points
    for (name, weight), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(weight, other), name
    assert list(theirs.kept) == [2, 9]
    assert all(torch.equal(theirs.kept[9][name], weight) for name, weight in curves.kept[9].items())


def test_what_other_code_or_another_recipe_began_is_trained_from_the_start(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop_at=5, sources="changed")
    assert train(tmp_path, recipe=replace(RECIPE, beta2=0.9), sources="changed")[2] == list(range(12))


def test_weights_of_another_recipe_are_refused(tmp_path) -> None:
    train(tmp_path)
    with pytest.raises(ValueError, match=r"another recipe \(learning_rate 0.01, not 0.02\): remove it"):
        train(tmp_path, recipe=replace(RECIPE, learning_rate=0.02))


def test_a_file_that_is_cut_off_is_told(tmp_path) -> None:
    train(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"model.safetensors is damaged .* remove it, and its trial trains again"):
        train(tmp_path)


def test_time_of_training_is_kept_with_the_weights(tmp_path) -> None:
    def taken_over(stop_at: int | None) -> float:
        point, trial = Point(), Trial(seed=0, folder=tmp_path, save_every_s=0.0, sources="as it is")

        def loss(step: int) -> torch.Tensor:
            if step == stop_at:
                raise KeyboardInterrupt
            time.sleep(0.02)
            return (point.x**2).sum()

        try:
            trial.learn("point", point, loss, Recipe(n_steps=10, learning_rate=0.1))
        except KeyboardInterrupt:
            assert stop_at == 5
        return sum(each.earlier_s for each in trial.trainings.values())

    assert taken_over(5) == 0
    assert 0.1 <= (half := taken_over(None)) < 0.2 + 5  # five steps, on a machine that may be busy
    assert taken_over(None) >= half + 0.1  # all ten

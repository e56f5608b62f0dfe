"""The model of text that experiments share: what it learns from, what is kept from it, and windows."""

import pytest
import torch

from cutaway.data import read_corpus
from cutaway.experiments.frame import Trial
from cutaway.experiments.text_model import TextModel, spread_windows, train


def test_learns_one_part_and_is_kept_from_the_other() -> None:
    config = TextModel(n_characters=3000, n_layers=1, n_heads=2, d_model=8, d_mlp=8, n_ctx=16, n_steps=3, batch_size=4)
    trained = train(Trial(seed=0), config)
    text = read_corpus("stdlib").text.encode("ascii", "ignore").decode()[:3000]
    assert trained.lm.tokenizer.decode(trained.learnt.tolist()) == text[:2700]
    assert trained.lm.tokenizer.decode(trained.held_out.tolist()) == text[2700:]
    assert not torch.equal(trained.lm.model.embed.W_E, trained.untrained.embed.W_E)

    again = train(Trial(seed=0), config)
    assert torch.equal(again.lm.model.embed.W_E, trained.lm.model.embed.W_E)
    other = train(Trial(seed=1), config)
    assert not torch.equal(other.untrained.embed.W_E, trained.untrained.embed.W_E)


def test_batches_touch_nothing_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []

    def learn(_trial, _name, _model, loss, recipe):  # type: ignore[no-untyped-def]
        for step in range(recipe.n_steps):
            loss(step)

    def record(_model: object, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(torch.cat([tokens, targets[:, -1:]], dim=1))
        return torch.zeros(())

    monkeypatch.setattr(Trial, "learn", learn)
    monkeypatch.setattr("cutaway.experiments.text_model.next_token_loss", record)
    config = TextModel(n_characters=300, n_layers=1, n_heads=1, d_model=4, d_mlp=4, n_ctx=50, n_steps=40, batch_size=50)
    trained = train(Trial(seed=0), config)
    text, windows = trained.learnt.tolist(), {tuple(row) for row in torch.cat(seen).tolist()}
    possible = [tuple(text[begin : begin + 51]) for begin in range(len(text) - 50)]
    assert windows == set(possible)  # each window of the first part, the last too, and none beyond it


def test_loss_on_held_out_text_is_that_of_its_windows() -> None:
    config = TextModel(n_characters=3000, n_layers=1, n_heads=2, d_model=8, d_mlp=8, n_ctx=16, n_steps=1, batch_size=4)
    trained = train(Trial(seed=0), config)
    windows = spread_windows(trained.held_out, 17, n_windows=5)
    with torch.no_grad():
        log_probs = trained.lm.model(windows[:, :-1]).log_softmax(-1)
    expected = -torch.stack([log_probs[row, pos, windows[row, pos + 1]] for row in range(5) for pos in range(16)]).mean().item()
    assert trained.held_out_loss(5) == pytest.approx(expected, rel=1e-5)  # float32 sums in another order


def test_windows_are_spread_and_do_not_overlap() -> None:
    text = torch.arange(103)
    assert spread_windows(text, 10, n_windows=3).tolist() == [list(range(begin, begin + 10)) for begin in (0, 40, 90)]
    every = spread_windows(text, 10, n_windows=10)
    assert every.flatten().tolist() == list(range(100))
    with pytest.raises(ValueError, match="a text of 103 tokens has 10 windows of 10, and 11 are asked for"):
        spread_windows(text, 10, n_windows=11)

"""In a model with a planted feature, probes find it where it is, and moving along them causes what it causes."""

import json
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import cutaway
from cutaway import LanguageModel, metrics, probing
from cutaway.hooks import Hooks, recording
from cutaway.interp.probing import MLP, LinearProbe, MeanDifference, Task, choosing, text_folds
from cutaway.interp.probing.activations import labelled_spots
from cutaway.interp.rows import Rows
from cutaway.model import Transformer
from cutaway.tokenizers import CharTokenizer
from interp.models import small_model
from interp.planted import N_POS, OFF, ON, planted_model, switched_texts
from interp.probed_rows import X


@pytest.fixture(scope="module")
def planted() -> tuple[Transformer, Tensor, list[str]]:
    return planted_model(), *switched_texts()


def test_a_planted_feature_is_found_where_it_is(planted: tuple[Transformer, Tensor, list[str]]) -> None:
    model, tokens, labels = planted
    by_token: list[list[str | None]] = [[None] + [label] * (N_POS - 1) for label in labels]
    found = probing.probe(model, tokens, by_token, pos=None, names="blocks.*.resid_*", with_control=True, n_nulls=3)
    before, after = (found.at(f"blocks.0.{part}").validation for part in ("resid_pre", "resid_post"))
    assert after.held_out.value >= 0.95
    assert after.selectivity is not None
    assert after.selectivity >= 0.3
    assert before.held_out.value < 0.6
    assert abs(after.shuffled.value - 0.5) < 0.1
    assert found.best.place.name == "blocks.0.resid_post"
    assert "selectivity" in found.summary()


def test_an_mlp_memorises_more_than_a_linear_probe(planted: tuple[Transformer, Tensor, list[str]]) -> None:
    model, tokens, labels = planted
    by_token: list[list[str | None]] = [[None] + [label] * (N_POS - 1) for label in labels]
    settings = {"names": "blocks.0.resid_post", "with_control": True, "n_nulls": 1, "n_folds": 3}
    linear = probing.probe(model, tokens, by_token, pos=None, **settings).best.validation
    mlp = probing.probe(model, tokens, by_token, pos=None, kind=MLP(d_hidden=128, n_steps=200), **settings).best.validation
    assert linear.held_out.value >= 0.95
    assert mlp.held_out.value >= 0.95
    assert linear.selectivity is not None
    assert mlp.selectivity is not None
    assert mlp.selectivity < linear.selectivity - 0.15


@pytest.mark.parametrize("kind", ["logistic", "mean-difference"])
def test_its_direction_flips_the_behaviour_and_random_ones_do_not(
    planted: tuple[Transformer, Tensor, list[str]], kind: str
) -> None:
    model, tokens, labels = planted
    found = probing.probe(model, tokens, labels, names="blocks.0.resid_post", kind=kind, n_nulls=1)
    tokens, labels = tokens[:20], labels[:20]
    caused = probing.cause(model, found.best.probe, tokens, labels, answers={"on": ON, "off": OFF}, strengths=[2], n_random=5)
    assert caused.n_counted == len(tokens)
    assert caused.at("flip").flipped >= 0.8
    assert caused.at("push 2").flipped >= 0.8
    assert caused.at("flip").random_mean < 0.2
    again = probing.cause(
        model, found.best.probe, tokens, answers={"on": ON, "off": OFF}, strengths=[2], n_random=1
    )  # its own reading for labels
    assert again.at("flip").flipped == caused.at("flip").flipped
    top = probing.cause(model, found.best.probe, tokens, labels, strengths=[2], n_random=1)  # the likeliest token is the answer
    assert top.at("flip").flipped >= 0.8
    signed = probing.cause(model, found.best.probe, tokens, labels, metric=metrics.logit_diff(ON, OFF), strengths=[2], n_random=1)
    assert signed.at("flip").flipped == caused.at("flip").flipped


def test_causes_are_runs_with_the_activation_changed_by_hand(planted: tuple[Transformer, Tensor, list[str]]) -> None:
    model, tokens, labels = planted
    tokens, labels = tokens[:12], labels[:12]
    probe = probing.probe(model, *switched_texts(), names="blocks.0.resid_post", n_nulls=1).best.probe
    assert isinstance(probe, LinearProbe)
    caused = probing.cause(model, probe, tokens, labels, answers={"on": ON, "off": OFF}, strengths=(0.4,), n_random=1)
    u, is_on = probe.direction, torch.tensor([label == "on" for label in labels])
    at_off, at_on = probe.means @ u
    gap = float(at_on - at_off)
    assert caused.gap == pytest.approx(gap)

    def flipped(change) -> float:  # type: ignore[no-untyped-def]
        def hook(x: Tensor, _name: str) -> Tensor:
            x = x.clone()
            x[:, -1] = change(x[:, -1])
            return x

        logits = model(tokens, hooks=Hooks({"blocks.0.resid_post": hook}))[:, -1]
        says_on = logits[:, ON] > logits[:, OFF]
        return float((says_on != is_on).double().mean())

    sign = torch.where(is_on, -1.0, 1.0).double()[:, None]
    goal = torch.where(is_on, at_off, at_on)[:, None]
    expected = {
        "push 0.4": flipped(lambda x: x + sign * 0.4 * gap * u),
        "remove": flipped(lambda x: x - (x @ u)[:, None] * u),
        "flip": flipped(lambda x: x + (goal - (x @ u)[:, None]) * u),
    }
    assert {each.label: each.flipped for each in caused.interventions} == pytest.approx(expected)


def test_random_directions_are_moved_along_by_the_same_amounts(
    planted: tuple[Transformer, Tensor, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The probe's own direction drawn as a random one must do what it does as the probe's: push, removal and flip alike."""
    model, tokens, labels = planted
    probe = probing.probe(model, tokens, labels, names="blocks.0.resid_post", n_nulls=1).best.probe
    assert isinstance(probe, LinearProbe)
    monkeypatch.setattr("cutaway.interp.probing.causing._random_directions", lambda _d, _n, _seed: probe.direction[None])
    caused = probing.cause(model, probe, tokens[:20], labels[:20], answers={"on": ON, "off": OFF}, strengths=(0.4, 2), n_random=1)
    assert caused.at("flip").flipped > 0
    assert [each.random for each in caused.interventions] == [(each.flipped,) for each in caused.interventions]


def test_held_out_causes_are_those_of_probes_fitted_on_other_folds(planted: tuple[Transformer, Tensor, list[str]]) -> None:
    model, tokens, labels = planted
    tokens, labels = tokens[:20], labels[:20]
    settings: dict[str, Any] = {"answers": {"on": ON, "off": OFF}, "strengths": [0.4], "n_random": 2}
    found = probing.cause_held_out(model, tokens, labels, name="blocks.0.resid_post", n_folds=4, seed=3, **settings)
    task = Task.of(labels)
    folds = text_folds(task, 4, seed=3)
    hooks, plain = recording("blocks.0.resid_post")
    model(tokens, hooks=hooks)
    flips = []
    for fold in range(4):
        out = folds == fold
        fitted = probing.fit(plain["blocks.0.resid_post"][~out, -1], task.of_rows(~out))
        probe = replace(fitted, name="blocks.0.resid_post", pos=-1)
        one = probing.cause(model, probe, tokens[out], [labels[i] for i in out.nonzero()[:, 0].tolist()], seed=3, **settings)
        flips.append([each.flipped * one.n_counted for each in one.interventions])
    assert [each.flipped for each in found.interventions] == pytest.approx([sum(each) / 20 for each in zip(*flips, strict=True)])
    assert found.at("flip").flipped >= 0.8
    assert "fitted on other texts" in found.summary()


def test_the_place_is_chosen_on_other_texts_than_it_is_tested_on(
    planted: tuple[Transformer, Tensor, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens, labels = planted
    seen: dict[str, Tensor] = {}
    monkeypatch.setattr(
        choosing, "probe", lambda lm, texts, *a, **k: seen.update(chosen=texts) or probing.probe(lm, texts, *a, **k)
    )
    monkeypatch.setattr(
        choosing, "cause", lambda lm, probe, texts, *a, **k: seen.update(tested=texts) or probing.cause(lm, probe, texts, *a, **k)
    )
    settings: dict[str, Any] = {"answers": {"on": ON, "off": OFF}, "n_random": 2, "seed": 3}
    names = ["embed", "blocks.0.resid_post"]
    found = probing.choose_and_cause(model, tokens, labels, names=names, pos=[-1, 1], **settings)
    chosen, tested = ({tuple(row) for row in seen[part].tolist()} for part in ("chosen", "tested"))
    assert chosen | tested == {tuple(row) for row in tokens.tolist()}
    assert not chosen & tested
    assert len(seen["chosen"]) == len(seen["tested"]) == 30
    assert found.name == "blocks.0.resid_post"
    assert found.chosen is not None
    assert (found.chosen.n_places, found.chosen.n_texts, found.n_texts, found.is_held_out) == (4, 30, 30, True)
    assert found.chosen.accuracy.value >= 0.9
    assert found.at("flip").flipped >= 0.8
    best = probing.probe(
        model,
        seen["chosen"],
        [labels[tokens.tolist().index(row)] for row in seen["chosen"].tolist()],
        names=names,
        pos=[-1, 1],
        seed=3,
    ).best
    assert (found.name, found.pos) == (best.place.name, best.place.pos)
    assert "on 30 of them the place was chosen among 4 and the probe fitted; the other 30 had no part in that" in found.summary()
    assert json.loads(found.to_json())["chosen"]["n_texts"] == 30


def test_texts_that_are_the_same_are_learned_or_tested_together() -> None:
    """A label that nothing in the text says is read at chance, though every text comes twice."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(50, (60, 6), generator=generator).repeat(2, 1)
    labels = (torch.rand(60, generator=generator) < 0.5).long().repeat(2).tolist()
    found = probing.probe(small_model(), tokens, labels, n_nulls=1)
    assert {each.validation.held_out.value < 0.75 for each in found.scores} == {True}  # 0.5 and four standard errors of 60 texts
    assert (found.n_rows, found.n_groups) == (120, 60)
    rows = Rows(torch.tensor([[1, 2], [1, 2], [3, 0], [3, 4], [5, 6], [1, 2]]), (2, 2, 1, 2, 2, 2))
    _, task = labelled_spots(rows, ["a", "b"] * 3, pos=-1, groups=["x", "y", "z", "y", "w", "v"])
    assert task.groups.tolist() == [0, 0, 1, 0, 2, 0]  # the same text joins x, y and v; the third is shorter than the fourth
    _, task = labelled_spots(rows, ["a", "b"] * 3, pos=-1)
    assert task.groups.tolist() == [0, 0, 1, 2, 3, 0]


def test_uneven_texts_are_edited_at_their_own_ends() -> None:
    tokenizer = CharTokenizer("abcdefghijklmnopqrstuvwxyz ")
    lm = LanguageModel(small_model(d_vocab=27), tokenizer)
    texts, labels = ["abc", "the sea", "fg hi", "no", "yes we do", "a z"], ["x", "y"] * 3
    probe = probing.probe(lm, texts, labels, names="blocks.1.resid_post", n_folds=2, n_nulls=1).best.probe
    assert isinstance(probe, LinearProbe)
    caused = probing.cause(lm, probe, texts, labels, strengths=(50.0,), n_random=1)
    gap = float((probe.means[1] - probe.means[0]) @ probe.direction)

    def add(x: Tensor, _name: str, sign: float) -> Tensor:
        return torch.cat([x[:, :-1], x[:, -1:] + sign * 50 * gap * probe.direction], dim=1)

    changed = []
    for text, label in zip(texts, labels, strict=True):
        hooks = Hooks({probe.name: partial(add, sign=1.0 if label == "x" else -1.0)})
        tokens = lm.tokens(text)
        before, after = (run[0, -1].argmax() for run in (lm.model(tokens), lm.model(tokens, hooks=hooks)))
        changed.append(bool(before != after))
    assert caused.at("push 50").flipped == pytest.approx(sum(changed) / 6)
    assert any(changed)


def test_a_direction_is_an_edit(planted: tuple[Transformer, Tensor, list[str]]) -> None:
    model, tokens, labels = planted
    probe = probing.probe(model, tokens, labels, names="blocks.0.resid_post", n_nulls=1).best.probe
    assert isinstance(probe, LinearProbe)
    towards_on = cutaway.edits.add(probe.name, 20 * probe.between("off", "on"), pos=probe.pos)
    logits = cutaway.run_with_edits(model, tokens, [towards_on])[:, -1]
    assert bool((logits[:, ON] > logits[:, OFF]).all())


def test_what_has_no_direction_says_so(planted: tuple[Transformer, Tensor, list[str]]) -> None:
    model, tokens, labels = planted
    mlp = probing.fit(X, Task.of(["a", "b"] * 6), kind=MLP(n_steps=1))
    three = probing.fit(X, Task.of(["a", "b", "c"] * 4), kind=MeanDifference())
    rows = probing.fit(X, Task.of(["a", "b"] * 6))
    found = probing.probe(model, tokens, labels, names="blocks.0.resid_post", n_nulls=1).best.probe
    tokens, labels = tokens[:4], labels[:4]
    assert isinstance(three, LinearProbe)
    with pytest.raises(ValueError, match="3 classes apart: name two"):
        _ = three.direction
    with pytest.raises(ValueError, match="'d' is no class"):
        three.between("a", "d")
    for probe, sentence in ((mlp, "along no direction"), (rows, "rows from elsewhere")):
        with pytest.raises(ValueError, match=sentence):
            probing.cause(model, probe, tokens)
    with pytest.raises(ValueError, match="no answer for 'on'"):
        probing.cause(model, found, tokens, answers={"off": OFF})
    with pytest.raises(ValueError, match="two tokens that differ"):
        probing.cause(model, found, tokens, answers={"off": OFF, "on": OFF})
    with pytest.raises(ValueError, match="nothing can flip"):
        probing.cause(model, found, tokens, labels, answers={"off": ON, "on": OFF})
    with pytest.raises(ValueError, match="neither 'off' nor 'on'"):
        probing.cause(model, found, tokens, ["up"] * len(tokens))


@pytest.mark.parametrize("pos", [-1, [1, -1]])
def test_results_are_shown_printed_and_drawn(planted: tuple[Transformer, Tensor, list[str]], pos: int | list[int]) -> None:
    model, tokens, labels = planted
    found = probing.probe(model, tokens, labels, names="blocks.*.resid_*", pos=pos, n_nulls=1, with_control=True)
    caused = probing.cause(model, found.best.probe, tokens[:10], labels[:10], n_random=1)
    path = probing.text_path(model, tokens, labels, name="blocks.0.resid_post", l2s=[0.1, 1.0])
    for result in (found, caused, path):
        assert len(result.figures()) == len(result.views()) == 1
        assert result.summary() in repr(result)
        assert result.to_json()
    values = [each["held_out"] for each in found.to_dict()["places"]]
    assert values == [each.validation.held_out.value for each in found.scores]

"""Patching finds the circuits that are known, shows where the stream carries what differs, and refuses what has no answer."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway.experiments.handmade import HANDMADE, Handmade, Neuron
from cutaway.interp.patching import Direction, band, patch
from cutaway.language_model import LanguageModel
from cutaway.report import stdout_console
from interp.patched_prompts import CLEAN, CORRUPTED, LLAMA, LONGER, ROUNDING

# --- models whose circuit is known


def found_in(made: Handmade, site: str, **choices: Any) -> Tensor:
    """How far each cell moves the metric, of the way from one run to the other."""
    lm = LanguageModel(made.model, made.tokenizer)
    return patch(lm, made.tokens, made.corrupted_tokens, made.answers, made.wrong_answers, site=site, **choices).recovery


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("name", HANDMADE)
def test_the_known_heads_are_found(name: str, direction: str) -> None:
    """Precision and recall are 1, at any threshold between what norms let through and the greatest."""
    made = HANDMADE[name](n_prompts=4)
    recovery = found_in(made, "z", direction=direction)
    strong = {tuple(cell) for cell in (recovery > 0.9).nonzero().tolist()}
    nonzero = {tuple(cell) for cell in (recovery.abs() > made.leak / 9 + ROUNDING).nonzero().tolist()}
    assert strong == nonzero == {tuple(head) for head in made.circuit.heads}


INPUTS = {
    "induction": {("induction", "k")},
    "copying": {("copying", "k")},
    "indirect object": {("S-inhibition", "v"), ("name mover", "q")},
}
"""By which input what differs between the prompts reaches a head from another head."""


@pytest.mark.parametrize("name", INPUTS)
def test_the_known_inputs_are_found(name: str) -> None:
    made = HANDMADE[name](n_prompts=4)
    for site in "qkv":
        recovery = found_in(made, site)
        outside = {tuple(cell) for cell in (recovery.abs() > ROUNDING).nonzero().tolist()} - set(map(tuple, made.circuit.heads))
        assert not outside, site
        for head, role in made.circuit.heads.items():
            if made.circuit.head_edges() and any(edge.receiver == head for edge in made.circuit.head_edges()):
                assert (float(recovery[head]) > 0.9) == ((role, site) in INPUTS[name]), (role, site)


def test_the_known_neuron_is_in_its_layer() -> None:
    made = HANDMADE["neuron"](n_prompts=4)
    (unit,) = (part for part in made.circuit.neurons if isinstance(part, Neuron))
    recovery = found_in(made, "mlp_out")  # layer pos
    expected = torch.zeros_like(recovery)
    expected[unit.layer, int(made.positions[unit][0])] = 1.0
    torch.testing.assert_close(recovery, expected, rtol=0, atol=ROUNDING)


# --- what is shown


@pytest.mark.parametrize(
    ("shares", "sentence"),
    [
        ([[0.1, 0.9], [0.2, 0.8]], "The best position is 1 b in every layer."),
        ([[0.9, 0.1], [0.8, 0.1], [0.1, 0.7]], "The best position moves: 0 a (layers 0 to 1), then 1 b (layer 2)."),
        (
            [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]],
            "then 0 a (layers 7 to 8), and 1 shorter stretch besides.",
        ),
    ],
)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_where_the_stream_carries_it(lm: LanguageModel, shares: list[list[float]], sentence: str, direction: Direction) -> None:
    found = patch(lm, "ab", "bb", "c", direction=direction)
    scores = found.base + (found.other - found.base) * torch.tensor(shares, dtype=torch.float64)[..., None]
    moved = replace(found, scores=scores)
    assert sentence in moved.summary()
    assert sentence not in replace(moved, site="mlp_out").summary()


def test_noising_recovers_nothing(lm: LanguageModel) -> None:
    found = patch(lm, CLEAN, CORRUPTED, "a", site="z", direction="noising")
    shown = [found.summary(), *found.table()[0], *(figure.axes[0].get_xlabel() for figure in found.figures())]
    assert not any("recovery" in each.lower() for each in shown)
    assert "% of the way to the corrupted run" in found.summary()


def test_bands() -> None:
    assert [band(x) for x in (1.2, 0.701, 0.7, 0.41, 0.4, 0.21, 0.2, 0.0, -3.0)] == [
        "Critical", "Critical", "Important", "Important", "Moderate", "Moderate", "Minimal", "Minimal", "Minimal",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "choices", [{}, {"by": "layer"}, {"site": "z"}, {"site": "z", "by": "head-position"}, {"site": "v", "by": "kv-head"}]
)
def test_what_is_shown(make_lm: Callable[..., LanguageModel], choices: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    lm = make_lm(**LLAMA)
    found = patch(lm, CLEAN, LONGER, "a", **choices)
    values = found.to_dict()
    assert torch.tensor(values["recovery"], dtype=torch.float64).equal(found.recovery)
    assert len(values["cells"]) == found.scores[0, ..., 0].numel()
    assert [each["layer"] for each in values["layers"]] == [each.layer for each in found.ranked()]
    assert found.ranked()[0].recovery == pytest.approx(float(found.recovery.max()), abs=0)
    assert found.to_json()
    found.show(stdout_console())
    shown = capsys.readouterr().out
    assert "Positions without a partner are skipped" in shown
    assert "(0 %)" in shown
    assert max(map(len, shown.split("\n\n", 1)[1].splitlines())) <= 80
    assert len(found.figures()) == 1 + (found.by != "layer")


def test_values_beyond_0_and_100_percent_stay(lm: LanguageModel) -> None:
    found = patch(lm, CLEAN, CORRUPTED, "a", by="layer")
    gap = found.other - found.base
    beyond = replace(found, scores=torch.stack([found.base - 0.5 * gap, found.base + 1.5 * gap]))
    torch.testing.assert_close(beyond.recovery, torch.tensor([-0.5, 1.5], dtype=torch.float64), rtol=0, atol=ROUNDING)
    assert "1 Critical, 1 Minimal (Critical is above 70 %, Important is above 40 %" in beyond.summary()
    assert [(each.layer, each.band) for each in beyond.ranked()] == [(1, "Critical"), (0, "Minimal")]
    assert [row[2] for row in beyond.table()[1]] == ["150.0", "-50.0"]


# --- what is refused


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"corrupted": CLEAN}, "are the same tokens"),
        ({"corrupted": "qqq"}, "do not align anywhere"),
        ({"corrupted": "a cat"}, "and only their beginning in common, where no patch changes anything"),
        ({"corrupted": [CORRUPTED, CORRUPTED]}, "1 clean and 2 corrupted prompts"),
        ({"site": "resid_pree"}, "nearest names are resid_pre"),
        ({"by": "head"}, "resid_pre has no heads"),
        ({"by": "kv-head", "site": "z"}, "kv-head is for k and v"),
        ({"correct": "ab"}, "is not one token"),
        ({"correct": 99}, "has logits for 0 to 26"),
        ({"correct": ["a", "b", "c"]}, "3 answers for 1 prompts"),
        ({"wrong": "a"}, "are one token"),
        ({"metric": "logit_diff"}, "give a wrong answer"),
        ({"clean": CLEAN * 3, "corrupted": CORRUPTED * 3}, "the model reads 20"),
    ],
)
def test_refused(lm: LanguageModel, given: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        patch(lm, **{"clean": CLEAN, "corrupted": CORRUPTED, "correct": "a", **given})


def test_nothing_to_recover(lm: LanguageModel) -> None:
    """An answer whose logits do not depend on the prompt."""
    with torch.no_grad():
        for block in lm.model.blocks:
            block.attn.W_O.weight.zero_()
            block.attn.W_O.bias.zero_()
    with pytest.raises(ValueError, match="both runs give the same log-probability of a"):
        patch(lm, "a cat", "a bat", "a")


def test_what_the_stream_brings_where_it_is_read_is_told_apart(lm: LanguageModel) -> None:
    found = patch(lm, CLEAN, CORRUPTED, "a", "b", site="resid_pre")
    last = len(found.alignments[0].corrupted) - 1
    assert found.read == (last,)
    elsewhere = found.recovery[:, [place for place, pos in enumerate(found.positions) if pos != last]]
    best = found.ranked(apart=found.read)[0]
    assert best.recovery == pytest.approx(elsewhere.max().item(), abs=ROUNDING)
    assert not best.where.startswith(f"{last} ")
    assert f"Apart from position {last}" in found.summary()
    header, rows = found.table()
    assert header[-2:] == [f"best but {last}", "%"]
    assert {row[-2].split()[0] for row in rows} <= {str(pos) for pos in found.positions} - {str(last)}
    assert found.to_dict()["layers_apart_from_read"][0]["recovery"] == best.recovery
    by_head = patch(lm, CLEAN, CORRUPTED, "a", "b", site="z")
    assert by_head.read == ()
    assert "Apart from" not in by_head.summary()

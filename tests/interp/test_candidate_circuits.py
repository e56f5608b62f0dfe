"""Induction circuits made by hand are named, and decoys that look the same but write elsewhere are not."""

import json
import math
from collections.abc import Callable
from functools import cache
from io import StringIO

import pytest
import torch
from rich.console import Console

from cutaway.config import ModelConfig
from cutaway.experiments.handmade import HANDMADE, Handmade
from cutaway.interp.composition import CandidateCircuits, candidate_circuits, composition_scores
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer

MakeModel = Callable[..., Transformer]


@cache
def built(name: str) -> Handmade:
    return HANDMADE[name](n_prompts=1)


@cache
def found(name: str) -> CandidateCircuits:
    return candidate_circuits(LanguageModel(built(name).model, built(name).tokenizer), n_sequences=4)


def shown(result: CandidateCircuits) -> str:
    console = Console(width=80, record=True, color_system=None, force_terminal=True, file=StringIO())
    result.show(console)
    return console.export_text()


INDUCTION = [name for name in HANDMADE if name.startswith("induction")]
GROUPED = [name for name in INDUCTION if "grouped" in name]


@pytest.mark.parametrize("name", INDUCTION)
def test_circuits_made_by_hand_are_the_only_candidates(name: str) -> None:
    known = {(edge.sender, edge.receiver) for edge in built(name).circuit.head_edges()}
    result = found(name)
    assert {(pair.previous, pair.induction) for pair in result.candidates} == known
    assert result.candidates[0].rank == 1
    assert result.candidates[0].n_before == built(name).model.config.n_heads
    assert result.candidates[0].previous_score == pytest.approx(0.95, abs=1e-5)
    assert result.candidates[0].induction_score > 0.9


@pytest.mark.parametrize("name", GROUPED)
def test_keys_that_are_shared_compose_as_the_heads_own(name: str) -> None:
    """What the group's other head reads is not the induction head's: the score is that of the same circuit without groups."""
    apart = {"induction, grouped": "induction", "induction, rotary, grouped, RMSNorm": "induction, rotary"}[name]
    assert found(name).candidates[0].composition == pytest.approx(found(apart).candidates[0].composition, abs=1e-3)
    assert found(name).candidates[0].deviations > 5


def test_decoys_are_paired_and_compose_less_than_chance() -> None:
    result = found("induction, with decoys")
    assert len(result.pairs) == 3
    assert [pair.excess > 0 for pair in result.pairs] == [True, False, False]
    assert result.pairs[1].previous_score == pytest.approx(0.95, abs=1e-5)
    assert "1 of 3 pairs are candidates" in result.summary()


@pytest.mark.parametrize("name", ["copying", "indirect object", "neuron"])
def test_there_is_no_induction_circuit_where_there_is_none(name: str) -> None:
    assert found(name).pairs == ()
    assert found(name).summary().startswith("No candidates: ")
    assert "none" not in shown(found(name)).lower()
    assert len(found(name).figures()) == 2


@torch.no_grad()
def test_pairs_hold_what_composition_and_detection_say(make_model: MakeModel, tiny_config: ModelConfig) -> None:
    model = make_model(tiny_config.replace(n_layers=3, n_kv_heads=2))
    result = candidate_circuits(model, n_sequences=2, threshold=0.0)
    composition = composition_scores(model, ("k",))
    assert len(result.pairs) == 3 * 16
    for pair in result.pairs:
        score = composition.score("k", pair.previous, pair.induction)
        assert pair.composition == score
        assert pair.excess == score - composition.baseline
        assert pair.previous_score == result.heads.score("previous", *pair.previous).score
        assert pair.induction_score == result.heads.score("induction", *pair.induction).score
        others = [composition.score("k", (layer, head), pair.induction) for layer in range(pair.induction[0]) for head in range(4)]
        assert pair.rank == 1 + sum(other > score for other in others)
        assert pair.n_before == len(others)
        assert pair.is_candidate == (sum(other > score for other in others) < math.ceil(len(others) / 20) and pair.excess > 0)
    assert result.candidates == tuple(pair for pair in result.pairs if pair.is_candidate)
    assert result.n_by_chance == pytest.approx(sum(1 / (4 * pair.induction[0]) for pair in result.pairs))  # the first of 4 or of 8
    assert [pair.excess for pair in result.pairs] == sorted((pair.excess for pair in result.pairs), reverse=True)
    finite = composition.scores["k"][composition.scores["k"].isfinite()]
    assert result.share_of_all == sum(value > composition.baseline for value in finite.tolist()) / len(finite)


def test_a_model_of_one_layer_has_none(tiny_model: Transformer) -> None:
    with pytest.raises(ValueError, match="n_layers 1, and heads compose across layers"):
        candidate_circuits(Transformer(tiny_model.config.replace(n_layers=1)))


@pytest.mark.parametrize("threshold", [0.0, 0.4])
def test_a_result_is_data_and_shows_itself(threshold: float, make_model: MakeModel, tiny_config: ModelConfig) -> None:
    model = make_model(tiny_config.replace(n_layers=4, n_heads=8))
    result = candidate_circuits(model, n_sequences=2, threshold=threshold)
    content = json.loads(result.to_json())
    assert len(content["pairs"]) == len(result.pairs)
    assert content["baseline"] == 1 / math.sqrt(15)
    text = shown(result)
    assert max(map(len, text.splitlines())) <= 80
    assert result.figures()
    assert len(result.table()[1]) == min(len(result.pairs), 10)

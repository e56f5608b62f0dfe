"""`cutaway interpret` path-patch and attribution-patch, on a tiny run."""

import json

import pytest
import torch

import cutaway as package
from cutaway import sae
from cutaway.report import token_label

ASKED = ["--text", "the king", "--corrupted", "the wing", "--target", "s", "--wrong", "e"]
VERBS = {
    "path-patch": ["--receiver", "L1H0.q", "--receiver", "logits"],
    "attribution-patch": ["--kind", "z", "--kind", "q", "--exact-top", "2"],
}


@pytest.mark.parametrize("verb", VERBS)
def test_it_is_shown_printed_and_written(cutaway, run, verb, tmp_path):
    code, out, err = cutaway("interpret", verb, "play", *ASKED, *VERBS[verb], "--report", "found.html")
    assert (code, err) == (0, ""), err
    assert max(map(len, (line for line in out.splitlines()[2:] if not line.startswith("The report")))) <= 80
    assert "<svg" in (tmp_path / "found.html").read_text()
    code, out, err = cutaway("interpret", verb, *ASKED, *VERBS[verb], "--json")
    assert code == 0, err
    assert json.loads(out)["metric"].startswith("logit difference")


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_the_source_and_an_example(cutaway, verb):
    code, out, _ = cutaway("interpret", verb, "--help")
    assert code == 0
    assert f"cutaway interpret {verb} --demo" in out
    assert "et al. 20" in " ".join(out.split())
    assert max(map(len, out.splitlines())) <= 100


def test_options_arrive(cutaway, run):
    chosen = ["--sender", "L0H1", "--receiver", "L1H0", "--receiver-pos=-1", "--mlps", "frozen", "--frozen-norm", "blocks.*.ln1"]
    found = json.loads(cutaway("interpret", "path-patch", *ASKED, *chosen, "--metric", "prob", "--json")[1])
    assert (found["senders"], found["receivers"]) == (["L0H1"], ["L1H0.q", "L1H0.k", "L1H0.v"])
    assert (found["mlps"], found["receiver_pos"], found["metric"]) == ("frozen", [-1], "probability of s")
    assert found["frozen_norms"] == ["blocks.0.ln1.scale", "blocks.1.ln1.scale"]
    chosen = ["--kind", "resid_pre", "--by-position", "--along", "inputs", "--steps", "3", "--exact-all", "--threshold", "0.2"]
    found = json.loads(cutaway("interpret", "attribution-patch", *ASKED, *chosen, "--json")[1])
    assert (found["along"], found["steps"], found["threshold"]) == ("inputs", 3, 0.2)
    assert found["agreement"][0]["n_tried"] == found["agreement"][0]["n_nodes"] == 2 * 8
    assert found["tokens"] == [token_label(char) for char in "the king"]


def test_receivers_are_patched_together(cutaway, run):
    found = json.loads(cutaway("interpret", "path-patch", *ASKED, "--receiver", "L1H0.q+L1G1.k", "--json")[1])
    assert found["receivers"] == ["L1H0.q+L1G1.k"]


def test_features_are_named_beside_their_dictionary(cutaway, run):
    shape = sae.DictionaryConfig(kind="relu", d_in=package.load("play").config.d_model, d_sae=16, name="blocks.0.mlp_out")
    sae.save_dictionary(sae.make_dictionary(shape, generator=torch.Generator().manual_seed(0)), "features")
    asked = ["interpret", "path-patch", *ASKED, "--sender", "mlp0.f3", "--sender", "mlp0", "--receiver", "L1H0.q"]
    found = json.loads(cutaway(*asked, "--features", "features", "--json")[1])
    assert found["senders"] == ["mlp0.f3", "mlp0"]
    code, _, err = cutaway(*asked)
    assert (code, "mlp0.f3 is a feature, and no dictionary of mlp0 was given with it" in err) == (2, True)


def test_what_cannot_be_is_said(cutaway, run):
    code, out, err = cutaway("interpret", "path-patch", *ASKED, "--sender", "L5H0")
    assert (code, out) == (2, "")
    assert "there is no layer 5; there are 2, 0 to 1" in err
    code, out, err = cutaway("interpret", "attribution-patch", "--text", "the king", "--corrupted", "the king", "--target", "s")
    assert (code, out) == (2, "")
    assert "same tokens" in err

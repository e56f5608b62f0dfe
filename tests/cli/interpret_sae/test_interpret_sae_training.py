"""`cutaway interpret sae train`: from a text or a store, and what is kept, said to be lost, or refused."""

import errno
import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from cutaway import sae
from cutaway.interp.sae import folder as folders
from sae_commands import COMPARE, STORE, TRAIN, narrow_enough


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--site", "mlp_out", "--layer", "1"],
        ["--site", "ln2.normalized", "--target", "mlp_out", "--skip"],
        ["--layer", "1", "--site", "ln2.normalized", "--target", "blocks.1.mlp_out"],
        ["--kind", "batchtopk"],
    ],
)
def test_a_dictionary_is_trained_saved_evaluated_and_shown(cutaway, words, options, tmp_path):
    code, out, err = cutaway(*TRAIN, *options, "--save", "made", "--report", "curve.html")
    assert code == 0, err
    assert "The dictionary is in made." in err
    assert out.startswith("Training of a dictionary\n32 latents")
    assert narrow_enough(out)
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["cfg.json", "curve.json", "sae_weights.safetensors"]
    assert "<svg" in (tmp_path / "curve.html").read_text()
    given = ["words", "--sae", "made", "--corpus", "text.txt", "--n-pos", "16"]
    code, out, err = cutaway("interpret", "sae", "evaluate", *given)
    assert (code, err) == (0, ""), err
    assert "the dictionary's" in out
    assert narrow_enough(out)
    found = json.loads(cutaway("interpret", "sae", "evaluate", *given, "--json")[1])
    assert cutaway("interpret", "sae", "evaluate", *given[1:])[:2] == (0, out), "the dictionary's own model"
    assert found["loss"] > 0
    code, out, err = cutaway("interpret", "sae", "pages", *given, "--features", "4", "--tokens", "400", "--out", "pages")
    assert code == 0, err
    assert "The pages begin at pages/index.html" in err.replace("\\", "/")
    assert narrow_enough(out)
    assert len(list((tmp_path / "pages").iterdir())) == 5
    assert len(json.loads(cutaway("interpret", "sae", "pages", *given, "--feature", "3", "--json")[1])["features"]) == 1


@pytest.mark.parametrize("verb", ["train", "compare"])
def test_a_dictionary_is_not_lost_unasked(cutaway, words, tmp_path, verb):
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "cfg.json").write_text("a dictionary")
    command = [*(TRAIN if verb == "train" else COMPARE), "--save", "made"]
    code, _, err = cutaway(*command)
    assert (code, "made holds a dictionary already: give another folder, or --overwrite" in err) == (2, True), err
    assert (tmp_path / "made" / "cfg.json").read_text() == "a dictionary"
    code, _, err = cutaway(*command, "--overwrite")
    assert code == 0, err
    assert sae.load_dictionary(tmp_path / "made").config.d_sae == 32


@pytest.mark.parametrize(
    ("names", "options", "said"),
    [
        (["blocks.1.resid_post"], [], "32 latents (topk) of blocks.1.resid_post,"),
        (["blocks.0.attn.z", "blocks.1.mlp_out"], ["--site", "z"], "32 latents (topk) of blocks.0.attn.z,"),
        (
            ["blocks.1.ln2.normalized", "blocks.1.mlp_out"],
            ["--site", "ln2.normalized", "--target", "mlp_out"],
            "of blocks.1.ln2.normalized to blocks.1.mlp_out,",
        ),
    ],
)
def test_a_dictionary_is_trained_from_a_store(cutaway, words, tmp_path, names, options, said):
    names = [option for name in names for option in ("--names", name)]
    code, _, err = cutaway(*STORE, *names)
    assert code == 0, err
    train = ["interpret", "sae", "train", "words", "--store", "kept", "--width", "2", "--k", "3", "--steps", "20", *options]
    code, out, err = cutaway(*train, "--batch-size", "32", "--save", "made")
    assert code == 0, err
    assert said in " ".join(out.split()), out
    assert narrow_enough(out)
    about = json.loads((tmp_path / "made" / "cfg.json").read_text())["metadata"]["cutaway"]
    manifest = json.loads((tmp_path / "kept" / "manifest.json").read_text())
    assert about["model_sha256"] == manifest["model"]["sha256"]
    n_tokens = manifest["data"]["n_tokens"]
    n_learned = int(0.9 * n_tokens) // 16 * 16
    data = {"source": "text.txt", "sha256": manifest["data"]["sha256"], "n_tokens": n_tokens, "n_learned": n_learned}
    assert about["trained_on"] == data
    assert f"of which the last {n_tokens - n_learned:,} were held out" in " ".join(out.split())
    evaluate = ["interpret", "sae", "evaluate", "words", "--sae", "made"]
    for where in (["--store", "kept"], ["--corpus", "text.txt", "--n-pos", "16"]):
        code, out, err = cutaway(*evaluate, *where)
        assert code == 0, err
        assert "which were held out from training." in " ".join(out.split()), out
    (tmp_path / "more.txt").write_text("London is the capital\n" * 80)
    found = json.loads(cutaway(*evaluate, "--corpus", "more.txt", "--n-pos", "16", "--json")[1])
    assert "whether these tokens were among them is not known" in found["measured_on"]


TRANSCODERS = ["--layer", "all", "--site", "ln2.normalized", "--target", "mlp_out"]


@pytest.mark.parametrize("is_stored", [False, True])
def test_all_layers_are_trained_at_once(cutaway, words, tmp_path, is_stored):
    if is_stored:
        assert cutaway(*STORE, "--names", "blocks.*.ln2.normalized", "--names", "blocks.*.mlp_out")[0] == 0
    source = ["--store", "kept"] if is_stored else ["--corpus", "text.txt", "--n-pos", "16"]
    code, out, err = cutaway(
        "interpret", "sae", "train", "words", *source, "--width", "2", "--k", "3", "--steps", "20", "--batch-size", "32", *TRANSCODERS,
        "--save", "made",
    )  # fmt: skip
    assert code == 0, err
    assert "The dictionaries are in made." in err
    assert "2 dictionaries of 32 latents" in " ".join(out.split())
    assert narrow_enough(out)
    folders = sorted(each.name for each in (tmp_path / "made").iterdir())
    assert folders == ["layer-00", "layer-01"]
    for layer, folder in enumerate(folders):
        made = sae.load_dictionary(tmp_path / "made" / folder)
        assert made.config.row_names == (f"blocks.{layer}.ln2.normalized", f"blocks.{layer}.mlp_out")
    assert [each.name for each in sae.dictionary_folders(tmp_path / "made")] == folders
    assert sae.dictionary_folders(tmp_path / "made" / "layer-01") == [tmp_path / "made" / "layer-01"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--layer", "some"], "--layer is 'some'; expected a layer's number, counted from 0, or all"),
        (["--layer", "7"], "there is no layer 7"),
        ([*TRANSCODERS, "--save", "words"], "holds other things (config.json): give a folder of its own to the dictionaries"),
    ],
)
def test_layers_that_are_not_there_are_refused(cutaway, words, options, sentence):
    code, out, err = cutaway(*TRAIN, *options)
    assert code in (1, 2)
    assert sentence in " ".join(err.split()), err
    assert not out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["other", "--store", "kept"], "the store in kept is of another model (words, sha256"),
        (["words", "--store", "kept"], "holds resid_post of the layers 0, 1: give --layer"),
        (["words", "--store", "kept", "--site", "mlp_out"], "and no mlp_out: give --site"),
        (["words", "--store", "kept", "--site", "mlp_out", "--layer", "1"], "holds no 'blocks.1.mlp_out'"),
        (["words", "--store", "kept", "--corpus", "text.txt"], "do not go together"),
        (["words", "--store", "kept", "--tokens", "9"], "do not go together"),
        (["words", "--store", "nowhere"], "there is no folder nowhere: `cutaway interpret store"),
        (["words"], "--corpus or --store is missing"),
        (["words", "--store", "short"], "too few windows to hold some out: collect more tokens"),
    ],
)
def test_stores_that_do_not_fit_are_refused(cutaway, words, options, sentence):
    assert cutaway(*STORE, "--names", "blocks.*.resid_post")[0] == 0
    if "short" in options:
        short = [*STORE[:-1], "short", "--max-tokens", "16"]
        assert cutaway(*short, "--names", "blocks.1.resid_post")[0] == 0
    code, out, err = cutaway("interpret", "sae", "train", *options)
    assert code in (1, 2)
    assert sentence in " ".join(err.split()), err
    assert not out


def test_a_dictionary_that_is_not_saved_is_said_to_be_lost(cutaway, words):
    code, _, err = cutaway(*TRAIN)
    assert code == 0, err
    assert "The dictionary is not saved: --save FOLDER does that." in err


def test_a_sketch_is_trained_where_no_dictionary_is_given(cutaway, words):
    code, _, err = cutaway("interpret", "sae", "evaluate", "words", "--corpus", "text.txt", "--n-pos", "16")
    assert code == 0, err
    assert "No dictionary was given (--sae): a sketch of blocks.0.resid_post" in err


def test_it_is_the_same_whether_activations_are_held_or_not_at_all(cutaway, words):
    held = cutaway(*TRAIN, "--json")
    assert held[0] == 0
    anew = cutaway(*TRAIN, "--json", "--memory", "0")
    assert anew[0] == 0
    assert json.loads(held[1])["last"]["l0"] == json.loads(anew[1])["last"]["l0"] == 3.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["train", "words", "--corpus", "nowhere.txt"], "there is no file, folder or glob match 'nowhere.txt'"),
        ([*TRAIN[2:], "--site", "pattern"], "a dictionary is of vectors"),
        ([*TRAIN[2:], "--site", "nothing"], "no activation of a layer is called 'nothing'"),
        ([*TRAIN[2:], "--layer", "0", "--target", "blocks.1.mlp_out"], "ask for layer 1, or give 'mlp_out'"),
        ([*TRAIN[2:], "--k", "33"], "k is 33; expected 1 to 32"),
        ([*TRAIN[2:], "--skip"], "it is for a transcoder, so name its target"),
        ([*TRAIN[2:], "--save", "words"], "holds other things"),
        (["evaluate", "words", "--corpus", "text.txt", "--sae", "words"], "holds no cfg.json"),
        (
            ["evaluate", "words", "--corpus", "text.txt", "--sae", "nowhere"],
            "there is no folder nowhere: `cutaway interpret sae train",
        ),
        (["evaluate", "other", "--corpus", "text.txt", "--sae", "made"], "was trained on another model"),
        (["evaluate", "narrow", "--corpus", "text.txt", "--sae", "made"], "is for 16 coordinates"),
        (["pages", "words", "--corpus", "text.txt", "--sae", "made", "--feature", "32"], "there is no feature 32"),
        (["pages", "words", "--corpus", "text.txt", "--feature", "1", "--features", "3"], "do not go together"),
    ],
)
def test_mistakes_are_one_sentence(cutaway, words, options, sentence):
    if "made" in options:
        assert cutaway(*TRAIN, "--save", "made")[0] == 0
    code, out, err = cutaway("interpret", "sae", *options)
    assert code in (1, 2)
    assert sentence in err, err
    assert not out


def full_at(folder, monkeypatch, names=("made",)):
    """Let the disk be full in a folder, for dictionaries of these names, once they are trained."""
    write = folders.save_tensors

    def save_tensors(tensors, path):
        if folder in path.parts and path.parent.name in names:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write(tensors, path)

    monkeypatch.setattr(folders, "save_tensors", save_tensors)


def test_a_disk_that_is_full_in_the_end_does_not_lose_the_training(cutaway, words, tmp_path, monkeypatch):
    (tmp_path / "spare").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spare"))
    full_at("full", monkeypatch)
    code, _, err = cutaway(*TRAIN, "--save", "full/made")
    (kept,) = (tmp_path / "spare").glob("cutaway-*/made")
    assert code == 1
    said = f"{Path('full/made')} could not be written (no space left on device): what was trained is in {kept} instead"
    assert "".join(said.split()) in "".join(err.split())
    assert sae.load_dictionary(kept).config.d_sae == 32


def test_of_several_layers_those_that_could_not_be_written_are_kept(cutaway, words, tmp_path, monkeypatch):
    (tmp_path / "spare").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "spare"))
    full_at("all", monkeypatch, names=["layer-01"])
    code, _, err = cutaway(*TRAIN, "--layer", "all", "--save", "all")
    (kept,) = (tmp_path / "spare").glob("cutaway-*/*")
    assert (code, kept.name) == (1, "layer-01"), err
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["layer-00"]
    assert sae.load_dictionary(kept).config.name == "blocks.1.resid_post"


def test_where_nothing_can_be_written_in_the_end_that_is_said(cutaway, words, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    full_at("full", monkeypatch)
    code, _, err = cutaway(*TRAIN, "--save", "full/made")
    assert code == 1
    assert "what was trained is lost" in " ".join(err.split())


@pytest.mark.parametrize(
    ("save", "sentence"),
    [("text.txt/made", "text.txt/made: not a directory"), ("/proc/made", "/proc/made: no such file or directory")],
)
def test_a_place_that_cannot_be_written_is_refused_before_the_training(cutaway, words, monkeypatch, save, sentence):
    monkeypatch.setattr(sae, "train_together", None)  # would be a bug
    code, _, err = cutaway(*TRAIN, "--save", save)
    assert (code, sentence in " ".join(err.split()).replace("\\", "/")) == (2, True), err


def test_a_disk_without_room_is_refused_before_the_training(cutaway, words, monkeypatch):
    monkeypatch.setattr(sae, "train_together", None)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=2**10))
    code, _, err = cutaway(*TRAIN, "--save", "made")
    assert (code, "made takes 1 MiB and its disk has 0 MiB left: free some space" in " ".join(err.split())) == (1, True), err

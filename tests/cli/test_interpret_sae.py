"""`cutaway interpret sae`, on a tiny model whose tokens are words."""

import errno
import json
import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from cutaway import LanguageModel, ModelConfig, Transformer, circuits, load, sae
from cutaway.interp.sae import folder as folders
from cutaway.tokenizers import BPETokenizer
from cutaway.weights import save_hugging_face

TEXT = "The capital of France is Paris\nThe capital of England is London\n" * 60
QUICK = ["--steps", "20", "--batch-size", "32", "--n-pos", "16"]
TRAIN = ["interpret", "sae", "train", "words", "--corpus", "text.txt", "--width", "2", "--k", "3", *QUICK]


@pytest.fixture
def words(tmp_path):
    """A folder with a model that has never learned anything, one with another, and a text."""
    (tmp_path / "text.txt").write_text(TEXT)
    tokenizer = BPETokenizer.train(TEXT, 290)
    shape = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=32, n_layers=2, n_heads=2, d_model=16)
    for seed, name in enumerate(("words", "other")):
        save_hugging_face(
            LanguageModel(Transformer(shape, generator=torch.Generator().manual_seed(seed)), tokenizer), tmp_path / name
        )
    narrow = Transformer(shape.replace(d_model=8), generator=torch.Generator().manual_seed(0))
    save_hugging_face(LanguageModel(narrow, tokenizer), tmp_path / "narrow")


def narrow_enough(out):
    return max(map(len, (line for line in out.splitlines()[2:] if not line.startswith("The report")))) <= 80


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


STORE = ["interpret", "store", "words", "--data", "text.txt", "--n-ctx", "16", "--out", "kept"]


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


def test_pages_show_what_training_does_not_see(cutaway, words):
    assert cutaway(*STORE, "--names", "blocks.1.resid_post")[0] == 0
    train = [
        "interpret",
        "sae",
        "train",
        "words",
        "--store",
        "kept",
        "--width",
        "2",
        "--k",
        "3",
        "--steps",
        "20",
        "--batch-size",
        "32",
    ]
    assert cutaway(*train, "--save", "made")[0] == 0
    found = []
    for where in (["--store", "kept"], ["--corpus", "text.txt", "--n-pos", "16"]):
        code, out, err = cutaway("interpret", "sae", "pages", "words", "--sae", "made", *where, "--feature", "3", "--json")
        assert code == 0, err
        assert "which were held out from training." in err
        found.append(json.loads(out))
    assert found[0]["n_tokens"] < 120 * 16 * 0.2  # a tenth of the text, and not all of it
    code, _, err = cutaway("interpret", "sae", "pages", "words", "--store", "kept")
    assert (code, "no dictionary was given: give --sae FOLDER" in err) == (2, True)
    code, _, err = cutaway("interpret", "sae", "pages", "words", "--sae", "made")
    assert (code, "--corpus or --store is missing" in err) == (2, True)


FRANCE, ENGLAND = "The capital of France is", "The capital of England is"
ASKED = ["--text", FRANCE, "--target", "Paris"]
PAIRS = [
    {"clean": one, "corrupted": other, "correct": answer, "wrong": wrong}
    for one, other, answer, wrong in ((FRANCE, ENGLAND, "Paris", "London"), (ENGLAND, FRANCE, "London", "Paris"))
]


@pytest.fixture
def pairs(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(each) + "\n" for each in PAIRS))


KINDS = {"resid_post": [], "transcoder": ["--site", "ln2.normalized", "--target", "mlp_out"]}


@pytest.mark.parametrize("kind", KINDS)
def test_effects_of_features_are_shown(cutaway, words, pairs, tmp_path, kind):
    assert cutaway(*TRAIN, *KINDS[kind], "--save", "made")[0] == 0
    given = ["interpret", "sae", "effects", "words", "--sae", "made"]
    code, out, err = cutaway(*given, *ASKED, "--wrong", "London", "--report", "effects.html")
    assert code == 0, err
    assert "sae pages MODEL --sae made --corpus TEXT --feature N" in err
    assert "strongest at" in out
    assert narrow_enough(out)
    assert "<svg" in (tmp_path / "effects.html").read_text()
    lm = load(tmp_path / "words")
    expected = sae.feature_effects(lm, sae.load_dictionary(tmp_path / "made"), FRANCE, correct="Paris", wrong="London")
    assert json.loads(cutaway(*given, *ASKED, "--wrong", "London", "--json")[1]) == json.loads(expected.to_json())
    patched = json.loads(cutaway(*given, "--prompts", "pairs.jsonl", "--exact-top", "3", "--json")[1])
    assert patched["is_patched"]
    assert len(patched["clean"]) == 2
    assert sum(each["exact"] is not None for each in patched["features"]) == 3
    assert all(place.startswith("text ") for place in patched["places"].values())
    alone = json.loads(cutaway(*given, "--text", FRANCE, "--feature", "3", "--no-error", "--json")[1])
    assert alone["metric"] == "loss"
    assert {each["feature"] for each in alone["features"] if each["exact"] is not None} <= {3}


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_kept_and_all_else_ablated(cutaway, words, pairs, tmp_path, kind):
    assert cutaway(*TRAIN, *KINDS[kind], "--save", "made")[0] == 0
    given = ["interpret", "sae", "keep", "words", "--sae", "made"]
    code, out, err = cutaway(*given, "--prompts", "pairs.jsonl", "--report", "kept.html")
    assert code == 0, err
    assert "Features are in the order that 1 pairs give; the curve is of the other 1." in err
    assert out.startswith("Features kept")
    assert narrow_enough(out)
    assert (tmp_path / "kept.html").is_file()
    one = [*ASKED, "--corrupted", ENGLAND]
    code, out, err = cutaway(*given, *one, "--size", "0", "--size", "2", "--n-random", "3", "--json")
    assert "Features are in the order of these same prompts" in err
    found = json.loads(out)
    assert found["sizes"] == [0, 2]
    lm = load(tmp_path / "words")
    asked = circuits.read_pairs(lm, [FRANCE], [ENGLAND], ["Paris"])
    expected = circuits.keep_features(
        lm.model, asked.tokens, asked.other_tokens, asked.metric, sae.load_dictionary(tmp_path / "made"), sizes=[0, 2], n_random=3,
        measured=asked.measured,
    )  # fmt: skip
    assert found == json.loads(expected.to_json())
    named = json.loads(cutaway(*given, *one, "--feature", "5", "--feature", "3", "--ablation", "zero", "--no-rest", "--json")[1])
    assert (named["features"], named["sizes"], named["keeps_rest"]) == ([5, 3], [0, 1, 2], False)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["effects", "words", *ASKED, "--corrupted", ENGLAND, "--corrupted", FRANCE], "--text was given 1 times and --corrupted 2"),
        (["effects", "words", *ASKED, "--corrupted", "The capital"], "give another text of the same length for each"),
        (["effects", "words", *ASKED, "--feature", "32"], "there is no feature 32; there are 32, 0 to 31"),
        (["effects", "words", *ASKED, "--feature", "3", "--exact-top", "5"], "do not go together"),
        (["effects", "words", "--text", FRANCE, "--wrong", "London"], "a wrong answer is held against the correct one"),
        (["effects", "words"], "--text is missing"),
        (["effects", "narrow", *ASKED], "is for 16 coordinates"),
        (["keep", "words"], "--prompts or --ioi or --text is missing"),
        (["keep", "words", *ASKED], "one prompt is given by --text, --corrupted and --target"),
        (["keep", "words", *ASKED, "--corrupted", ENGLAND, "--size", "99"], "99 features are to be kept and"),
        (["keep", "words", *ASKED, "--corrupted", ENGLAND, "--feature", "3", "--held-out", "0.2"], "do not go together"),
        (["keep", "words", "--prompts", "pairs.jsonl", "--held-out", "0.9"], "cannot be split into 0.1 and the rest"),
        (["keep", "narrow", *ASKED, "--corrupted", ENGLAND], "is for 16 coordinates"),
    ],
)
def test_mistakes_about_features_are_one_sentence(cutaway, words, pairs, options, sentence):
    assert cutaway(*TRAIN, "--save", "made")[0] == 0
    code, out, err = cutaway("interpret", "sae", *options, "--sae", "made")
    assert code in (1, 2)
    assert sentence in " ".join(err.split()), err
    assert not out


COMPARE = ["interpret", "sae", "compare", "words", "other", "--corpus", "text.txt", "--width", "2", *QUICK]


def test_two_models_are_compared_and_the_crosscoder_kept(cutaway, words, tmp_path):
    code, out, err = cutaway(*COMPARE, "--save", "both", "--report", "both.html")
    assert code == 0, err
    assert "The crosscoder is in both; --sae both shows it again." in err
    assert "in words alone and" in " ".join(out.split())
    assert narrow_enough(out)
    assert (tmp_path / "both.html").read_text().count("<svg") >= 1
    about = json.loads((tmp_path / "both" / "cfg.json").read_text())
    assert about["architecture"] == "cutaway_crosscoder"
    again = ["interpret", "sae", "compare", "words", "other", "--corpus", "text.txt", "--n-pos", "16", "--sae", "both", "--json"]
    found = json.loads(cutaway(*again)[1])
    assert found["models"] == ["words", "other"]
    assert sum(found["counts"].values()) == sum(each > 0 for each in found["density"]) <= 32
    assert found == json.loads(cutaway(*COMPARE, "--json")[1]), "what is read back is what was trained"


def test_a_crosscoder_is_trained_from_two_stores(cutaway, words):
    for name in ("words", "other"):
        call = ["interpret", "store", name, "--data", "text.txt", "--n-ctx", "16", "--out", f"kept-{name}"]
        assert cutaway(*call, "--names", "blocks.1.resid_post")[0] == 0
    stores = ["--store", "kept-words", "--store", "kept-other"]
    code, out, err = cutaway(*COMPARE, *stores, "--json")
    assert code == 0, err
    assert json.loads(out)["activation"] == "blocks.1.resid_post"
    code, out, err = cutaway(*COMPARE, "--store", "kept-other", "--store", "kept-words")
    assert (code, out) == (2, "")
    assert "the store in kept-other is of another model" in err
    assert "give it twice" in cutaway(*COMPARE, "--store", "kept-words")[2]


def test_a_model_is_compared_with_itself_shuffled(cutaway, words):
    code, out, err = cutaway("interpret", "sae", "compare", "shuffled", "words", *COMPARE[5:], "--json")
    assert code == 0, err
    assert json.loads(out)["models"] == ["shuffled", "words"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["compare", "nowhere", "words", "--corpus", "text.txt"], "there is no file or folder nowhere"),
        (["compare", "narrow", "words", *COMPARE[5:]], "8 and 16 coordinates in the two models: a crosscoder"),
        (["compare", "other", "words", "--corpus", "text.txt", "--n-pos", "16", "--sae", "both"], "trained on other models than these"),
        (["compare", "words", "other", "--corpus", "text.txt", "--sae", "made"], "reads 1 model, and two are compared"),
        (["compare", "words", "other", "--corpus", "text.txt", "--sae", "both", "--width", "2"], "is read is not trained"),
        (["compare", "words", "other", "--corpus", "nowhere.txt"], "there is no file, folder or glob match"),
        (["compare", "words", "other"], "--corpus is missing: give it, or --demo"),
        (["compare", "--corpus", "text.txt"], "BEFORE is missing"),
        ([*COMPARE[2:], "--save", "words"], "holds other things"),
        ([*COMPARE[2:], "--steps", "0"], "the number of steps is 0"),
        (["probe", "words", "--data", "one.jsonl", "--sae", "made"], "all 4 labels are 'a'"),
        (["probe", "words", "--data", "nowhere.jsonl", "--sae", "made"], "there is no file nowhere.jsonl"),
        (["probe", "narrow", "--data", "labels.jsonl", "--sae", "made"], "is for 16 coordinates"),
        (["probe", "other", "--data", "labels.jsonl", "--sae", "made"], "was trained on another model"),
        (["probe", "words", "--data", "labels.jsonl", "--sae", "made", "--label", "z"], "there is no class 'z'"),
        (["probe", "words", "--data", "labels.jsonl", "--sae", "both"], "a crosscoder reads 2 models at once"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_sentence(cutaway, words, tmp_path, options, sentence):
    write_labels(tmp_path)
    if "made" in options:
        assert cutaway(*TRAIN, "--save", "made")[0] == 0
    if "both" in options:
        assert cutaway(*COMPARE, "--save", "both")[0] == 0
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, err = cutaway("interpret", "sae", *options)
    assert (code, out) == (2, "")
    assert sentence in " ".join(err.split()), err
    assert sorted(path.name for path in tmp_path.iterdir()) == before, "nothing is half written"


def write_labels(folder):
    rows = [
        {"text": f"The capital of {where}", "label": label, "group": str(place)}
        for place in range(6)
        for where, label in (("France is Paris" + " is" * place, "a"), ("England is London" + " is" * place, "b"))
    ]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "one.jsonl").write_text(4 * (json.dumps({"text": "The capital", "label": "a"}) + "\n"))


def test_a_label_is_told_from_few_latents(cutaway, words, tmp_path):
    write_labels(tmp_path)
    assert cutaway(*TRAIN, "--save", "made")[0] == 0
    call = ["interpret", "sae", "probe", "words", "--data", "labels.jsonl", "--sae", "made", "--folds", "3", "--k", "1", "--k", "4"]
    code, out, err = cutaway(*call, "--report", "probe.html")
    assert (code, err) == (0, ""), err
    assert "b is told from a with 1 of the 32 latents of blocks.0.resid_post" in " ".join(out.split())
    assert narrow_enough(out)
    assert "<svg" in (tmp_path / "probe.html").read_text()
    found = json.loads(cutaway(*call, "--label", "a", "--json")[1])
    assert (found["label"], [each["k"] for each in found["latents"]], len(found["random"])) == ("a", [1, 4], 3)


def test_a_sketch_of_a_run_learns_from_its_own_text(cutaway, run, tmp_path):
    """Its tokenizer knows the characters of that text alone, and so cannot read stdlib."""
    lines = [
        json.dumps({"text": f"the {noun}{'s' * many} laugh", "label": str(many)}) for noun in ("king", "fool") for many in (0, 1)
    ]
    (tmp_path / "labels.jsonl").write_text("\n".join(lines * 5))
    code, out, err = cutaway("interpret", "sae", "probe", "--data", "labels.jsonl", "--k", "1", "--folds", "2")
    assert code == 0, err
    assert "play.txt" in err
    assert "resid_post" in out


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


def test_a_dictionary_that_does_not_say_whose_it_is_is_taken_and_that_is_said(cutaway, words, tmp_path):
    cutaway(*TRAIN, "--save", "made")
    path = tmp_path / "made" / "cfg.json"
    about = json.loads(path.read_text())
    del about["metadata"]["cutaway"]["model_sha256"]
    path.write_text(json.dumps(about))
    code, _, err = cutaway("interpret", "sae", "evaluate", "words", "--sae", "made", "--corpus", "text.txt", "--n-pos", "16")
    said = (
        "made does not say which weights it learned from, only its model's name, words: whether they are this model's is not known"
    )
    assert (code, said in " ".join(err.split())) == (0, True), err


def test_a_dictionary_of_another_model_is_refused_by_name(cutaway, words):
    cutaway(*TRAIN, "--save", "made")
    code, _, err = cutaway("interpret", "sae", "evaluate", "other", "--sae", "made", "--corpus", "text.txt", "--n-pos", "16")
    assert (code, "was trained on another model (words, sha256" in " ".join(err.split())) == (2, True), err

"""`cutaway interpret sae`: features are shown on pages, changed, compared between models and told by labels."""

import json

import pytest

from cutaway import circuits, load, sae
from sae_commands import COMPARE, STORE, TRAIN, narrow_enough


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

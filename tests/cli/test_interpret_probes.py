"""`cutaway interpret probe` and `steer`, on a tiny model whose tokens are words."""

import json
import string

import pytest
import torch

import cutaway as cutaway_package
from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.tokenizers import BPETokenizer
from cutaway.weights import save_hugging_face

TEXT = "The cat was here\nThe cats were here\nThe dog is there\nThe dogs are there\n" * 40
ROWS = [
    {"text": f"The {word}{ending} {verb}", "label": label, "group": word}
    for word in ("cat", "dog", "cat here", "dog there", "here cat", "there dog")
    for ending, verb, label in (("", "is", "singular"), ("s", "are", "plural"))
]
STEER = ["--text", "The cat", "--text", "The", "--towards", "The cats were", "--away", "The dog is", "--max-new-tokens", "3"]


QUICK = ["--n-shots", "2", "--n-prompts", "2", "--n-heads", "2"]


@pytest.fixture
def words(tmp_path):
    """A folder with a model that has never learned anything, and files of labels."""
    tokenizer = BPETokenizer.train(TEXT, 280)
    shape = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=48, n_layers=2, n_heads=2, d_model=16)
    lm = LanguageModel(Transformer(shape, generator=torch.Generator().manual_seed(0)), tokenizer)
    save_hugging_face(lm, tmp_path / "words")
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    words = ["cat", "dog", "here", "there", "was", "were", "is", "are", "The", "cats", "dogs"]
    pairs = [{"input": word, "output": other} for word, other in zip(words, reversed(words), strict=True)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    by_token = [
        {"text": row["text"], "labels": [None, *["a" if token % 2 else "b" for token in lm.tokens(row["text"])[0, 1:].tolist()]]}
        for row in ROWS
    ]
    (tmp_path / "tokens.jsonl").write_text("\n".join(map(json.dumps, by_token)))
    return lm


COMMANDS = {
    "probe --data labels.jsonl": ["--control"],
    "probe --data tokens.jsonl": ["--layer", "1", "--site", "z", "--control", "--nulls", "1"],
    "probe --data labels.jsonl --pos -1": ["--pos", "0", "--nulls", "1", "--kind", "mean-difference"],
    "probe --data labels.jsonl --layer 1": ["--path", "--l2", "3"],
    "probe --data number": ["--layer", "0", "--nulls", "1", "--l2", "0.1"],
    "steer": [*STEER, "--strength", "2", "--strength", "-2"],
    "steer --ablate": [*STEER, "--layer", "0", "--neutral", "The dog is there"],
    "function-vector --pairs pairs.jsonl": ["--n-shots", "2", "--n-prompts", "3", "--n-heads", "2", "--layer", "0"],
    "steer --target is": ["--text", "The cat", "--towards", "The cats were", "--away", "The dog is", "--wrong", "are"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_shown_printed_and_written(cutaway, words, command, tmp_path):
    verb, *options = command.split()
    call = ["interpret", verb, "words", *options, *COMMANDS[command]]
    code, out, err = cutaway(*call, "--report", "found.html")
    assert (code, err) == (0, ""), err
    summary, _, shown = out.partition("\n\n")
    assert max(map(len, (line for line in shown.splitlines() if not line.startswith("The report")))) <= 80, shown
    assert "<svg" in (tmp_path / "found.html").read_text()
    code, out, err = cutaway(*call, "--json")
    assert code == 0, err
    assert json.loads(out)
    assert summary


def test_a_probe_is_put_to_the_test(cutaway, words, tmp_path):
    before = ("The cats", "The dogs", "here", "there", "was", "were", "is", "are", "The", "cat", "dog", "was here")
    lines = [json.dumps({"text": f"{first} The {word}", "label": word}) for word in ("cat", "dog") for first in before]
    (tmp_path / "pets.jsonl").write_text("\n".join(lines))
    cat, dog = (words.model(words.tokens(f"The The {word}"))[0, -1] for word in ("cat", "dog"))
    ids = {letter: words.tokenizer.encode(letter)[0] for letter in string.ascii_letters}
    of_cat, of_dog = next(
        (a, b) for a in ids for b in ids if cat[ids[a]] > cat[ids[b]] and dog[ids[b]] > dog[ids[a]]
    )  # an answer for each, whatever this model says
    answers = ["--answer", f"cat={of_cat}", "--answer", f"dog={of_dog}"]
    code, out, err = cutaway("interpret", "probe", "words", "--data", "pets.jsonl", *answers, "--json")
    assert code == 0, err
    causes = json.loads(out)["causes"]
    assert causes["chosen"]["n_places"] == 2
    assert causes["chosen"]["n_texts"] == causes["n_texts"] == 12
    assert causes["n_counted"] >= 1
    assert [each["label"] for each in causes["interventions"]] == ["push 0.5", "push 1", "push 2", "push 4", "remove", "flip"]


def test_a_vector_is_saved_and_taken_again(cutaway, words, tmp_path):
    code, out, err = cutaway("interpret", "steer", "words", *STEER, "--save", "cats.json", "--json")
    assert code == 0, err
    assert "The vector is in cats.json." in err
    again = [option for option in STEER if option not in ("--towards", "The cats were", "--away", "The dog is")]
    code, second, err = cutaway("interpret", "steer", "words", *again, "--vector", "cats.json", "--json")
    assert code == 0, err
    assert json.loads(second)["steered"] == json.loads(out)["steered"]
    assert cutaway("interpret", "steer", *again, "--vector", "cats.json", "--json")[:2] == (0, second), "the vector's own model"
    other = cutaway_package.load(tmp_path / "words")
    with torch.no_grad():
        other.model.embed.W_E.mul_(2)
    save_hugging_face(other, tmp_path / "other")
    refused = cutaway("interpret", "steer", "other", *again, "--vector", "cats.json")
    assert "was made for another model (words, sha256" in " ".join(refused[2].split())


@pytest.mark.parametrize("verb", [["steer", *STEER], ["function-vector", "--pairs", "pairs.jsonl", *QUICK]])
def test_a_vector_is_not_lost_unasked(cutaway, words, tmp_path, verb):
    (tmp_path / "cats.json").write_text("a vector")
    command = ["interpret", *verb, "words", "--save", "cats.json"]
    code, _, err = cutaway(*command)
    assert (code, "cats.json is there already: give another file, or --overwrite" in err) == (2, True), err
    assert (tmp_path / "cats.json").read_text() == "a vector"
    code, _, err = cutaway(*command, "--overwrite")
    assert code == 0, err
    assert cutaway_package.steering.SteeringVector.read(tmp_path / "cats.json").model == "words"


def test_a_vector_goes_to_a_place_that_is_there(cutaway, words):
    code, _, err = cutaway("interpret", "steer", "words", *STEER, "--save", "nowhere/cats.json")
    assert (code, "to write cats.json in" in " ".join(err.split())) == (2, True), err


def test_a_function_vector_is_saved_and_steers(cutaway, words, tmp_path):
    call = [
        "interpret",
        "function-vector",
        "words",
        "--pairs",
        "pairs.jsonl",
        "--n-shots",
        "2",
        "--n-prompts",
        "2",
        "--n-heads",
        "2",
    ]
    code, out, err = cutaway(*call, "--save", "task.safetensors", "--json")
    assert code == 0, err
    assert "The vector is in task.safetensors." in err
    assert cutaway_package.steering.SteeringVector.read(tmp_path / "task.safetensors").model == "words"
    found = json.loads(out)
    assert (found["n_tested"], len(found["heads"]), len(found["random_accuracies"])) == (3, 2, 5)
    assert {"accuracy", "steered_accuracy", "shots_accuracy"} <= found.keys()
    steer = ["interpret", "steer", "words", "--text", "The cat", "--vector", "task.safetensors", "--max-new-tokens", "2", "--json"]
    code, out, err = cutaway(*steer)
    assert code == 0, err
    assert json.loads(out)["vector"]["name"] == "blocks.0.resid_post"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--pairs", "nowhere.jsonl"], "there is no file nowhere.jsonl: expected an object a line, with input, output"),
        (["--pairs", "labels.jsonl"], "labels.jsonl, line 1 has 'text': expected input, output"),
        (["--pairs", "pairs.jsonl", "--n-shots", "1"], "1 example was asked for: give at least 2"),
        (["--pairs", "pairs.jsonl", "--n-shots", "9"], "there are 11 different inputs, of which a third is kept for the test"),
        (["--pairs", "pairs.jsonl", "--n-shots", "2", "--n-heads", "9"], "9 heads were asked for; expected 1 to the 4 heads"),
        (["--pairs", "pairs.jsonl", "--n-shots", "2", "--layer", "2"], "there is no layer 2"),
        (["--pairs", "pairs.jsonl", "--save", "task.pt"], "task.pt does not say how the vector is written"),
        ([], "--pairs is missing"),
    ],
)
def test_pairs_that_will_not_do_are_one_sentence(cutaway, words, tmp_path, options, sentence):
    before = sorted(path.name for path in tmp_path.iterdir())
    code, out, err = cutaway("interpret", "function-vector", "words", *options)
    assert (code, out) == (2, "")
    assert sentence in " ".join(err.split()), err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


FILES = {
    "empty": "",
    "broken": '{"text": "a", "label": "x"}\n{"text": ',
    "textless": '{"label": "x"}',
    "list": "[1]",
    "bare": '{"text": "a"}',
    "both": '{"text": "a", "label": "x", "labels": ["x"]}',
    "scalar": '{"text": "a", "labels": "x"}',
    "nested": '{"text": "a", "label": {}}',
    "grouped": '{"text": "a", "label": "x", "group": 1}\n{"text": "a", "label": "x"}',
    "typo": '{"text": "a", "label": "x", "gruop": 1}',
    "one": '{"text": "The cat", "label": "x"}\n{"text": "The dog", "label": "x"}',
    "short": '{"text": "The cat", "label": "x"}\n{"text": "The dog", "label": "y"}',
    "long": '{"text": "The cat", "labels": ["x", "y", "x", "y", "x", "y", "x", "y", "x"]}',
}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("empty", "holds no lines"),
        ("broken", "broken.jsonl, line 2 is no JSON"),
        ("textless", "textless.jsonl, line 1 has no 'text'"),
        ("list", "is no object"),
        ("bare", "has no label"),
        ("both", "has both label and labels"),
        ("scalar", "has labels that are no list"),
        ("nested", "a label is {}"),
        ("grouped", "has no 'group', and others have"),
        ("one", "all 2 labels are 'x': a probe tells classes apart"),
        ("short", "there are 2 texts (the same ones, and those of a group, count once) and 5 folds"),
        ("long", "tokens and 9 labels"),
        ("typo", "has 'gruop': expected text, perhaps label, labels, group"),
        ("absent", "there is no file absent.jsonl"),
    ],
)
def test_a_file_that_will_not_do_is_one_sentence(cutaway, words, tmp_path, name, sentence):
    if name in FILES:
        (tmp_path / f"{name}.jsonl").write_text(FILES[name])
    code, out, err = cutaway("interpret", "probe", "words", "--data", f"{name}.jsonl")
    assert (code, out) == (2, "")
    assert sentence in " ".join(err.split()), err


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["probe", "words"], "--data is missing"),
        (["probe", "words", "--data", "labels.jsonl", "--answer", "is"], "CLASS=TOKEN"),
        (["probe", "words", "--data", "labels.jsonl", "--answer", "singular= is"], "expected two of the classes plural, singular"),
        (["probe", "words", "--data", "tokens.jsonl", "--answer", "a= is", "--answer", "b= are"], "one label a text"),
        (["probe", "words", "--data", "labels.jsonl", "--path"], "give --layer"),
        (["probe", "words", "--data", "labels.jsonl", "--kind", "mlp", "--l2", "1"], "leave it out"),
        (["probe", "words", "--data", "labels.jsonl", "--layer", "1", "--kind", "mlp", "--path"], "has no penalty"),
        (["probe", "words", "--data", "labels.jsonl", "--kind", "ridge"], "is no number"),
        (["probe", "words", "--data", "labels.jsonl", "--layer", "5"], "no layer 5"),
        (["probe", "words", "--data", "labels.jsonl", "--site", "zz"], "no activation of a layer is called 'zz'"),
        (["steer", "words", "--text", "The"], "--towards and --away"),
        (["steer", "words", "--text", "The", "--towards", "a", "--away", "b", "--wrong", "is"], "give that too"),
        (["steer", "words", "--text", "The", "--towards", "The cat", "--away", "The cat"], "the same mean"),
        (["steer", "words", "--text", "The", "--vector", "cats.json"], "there is no file cats.json"),
        (["steer", "words", "--text", "The", "--vector", "cats.json", "--layer", "1"], "a vector that is read is not made"),
        (["steer", "words", "--text", "The", "--towards", "The cat", "--away", "The dog", "--strength", "0"], "no strength"),
        (["steer", "words", *STEER, "--save", "cats.pt"], "ends in .json or .safetensors"),
    ],
)
def test_mistakes_are_one_sentence(cutaway, words, options, sentence):
    code, out, err = cutaway("interpret", *options)
    assert (code, out) == (2, ""), err
    assert sentence in " ".join(err.split()), err

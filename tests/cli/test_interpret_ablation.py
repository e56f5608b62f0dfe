"""`cutaway interpret ablate`, `importance`, `weights` and `fold`, on a tiny model whose tokens are words."""

import json

import pytest

import cutaway as package

PROMPT = "The capital of France is"
TEXT = "The capital of France is Paris\nThe capital of England is London\n" * 40
ANSWERS = ["--text", PROMPT, "--target", "Paris", "--wrong", "London"]
COMMANDS = {
    "ablate": ANSWERS,
    "ablate --what layer": ["--text", PROMPT, "--text", "The capital of England is", "--how", "mean"],
    "ablate --how mean --by-position": ["--text", PROMPT, "--text", "The capital of England is"],
    "ablate --what position": ["--text", PROMPT, "--how", "resample", "--reference", TEXT[:31]],
    "ablate --what neuron --layer 1": ["--text", PROMPT],
    "ablate --layer 0 --head 1": ANSWERS,
    "importance": ["--text", PROMPT, "--text", "The capital of England is"],
    "weights": [],
    "weights --layer 1": [],
    "weights --layer 1 --head 0": [],
    "weights --layer 1 --head 0 --circuit qk": [],
    "fold --out folded": [],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_shown_printed_and_written(cutaway, words, command, tmp_path):
    verb, *options = command.split()
    call = ["interpret", verb, "words", *options, *COMMANDS[command]]
    code, out, err = cutaway(*call, "--report", "found.html")
    assert (code, err) == (0, ""), err
    assert max(map(len, (line for line in out.splitlines()[2:] if not line.startswith("The report")))) <= 80
    assert "<svg" in (tmp_path / "found.html").read_text()
    code, out, err = cutaway(*(word if word != "folded" else "folded-again" for word in call), "--json")
    assert code == 0, err
    assert json.loads(out)


def test_an_answer_is_said_as_it_was_taken(cutaway, words):
    code, out, _ = cutaway("interpret", "ablate", "words", *ANSWERS)
    assert code == 0
    assert "Paris is taken as ' Paris'" in out
    assert "The logit of ·Paris less ·London is" in out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["ablate", "words", "--text", PROMPT, "--head", "1"], "give --layer too"),
        (["ablate", "words", "--text", PROMPT, "--layer", "0", "--head", "1", "--what", "mlp"], "--head takes out that one head"),
        (["ablate", "words", "--text", PROMPT, "--how", "resample"], "several such rows, or a reference"),
        (["ablate", "words", "--text", PROMPT, "--what", "neuron"], "2 layers of 24 neurons: name the layers meant"),
        (["ablate", "words", "--text", PROMPT, "--by-position"], "means alone are by position, and the ablation is 'zero'"),
        (["ablate", "words", "--text", PROMPT, "--wrong", "London"], "a wrong answer is held against the correct one"),
        (["heads", "words", "--num-sequences", "0"], "0 sequences were asked for; draw at least one"),
        (["weights", "words", "--head", "1"], "give --layer too"),
        (["weights", "words", "--layer", "7"], "no layer 7"),
    ],
)
def test_mistakes_are_one_sentence(cutaway, words, options, sentence):
    code, out, err = cutaway("interpret", *options)
    assert code in (1, 2)
    assert sentence in err, err
    assert not out


def test_a_mean_of_each_position_arrives(cutaway, words):
    texts = ["--text", PROMPT, "--text", "The capital of England is", "--how", "mean", "--json"]
    everywhere, each = (json.loads(cutaway("interpret", "ablate", "words", *texts, *more)[1]) for more in ([], ["--by-position"]))
    assert each["replacement"] == "the mean of each position over these same rows" != everywhere["replacement"]


def test_a_folded_model_is_written_and_computes_the_same(cutaway, words, tmp_path):
    found = json.loads(cutaway("interpret", "fold", "words", "--out", "folded", "--text", PROMPT, "--json")[1])
    folded = package.load(tmp_path / "folded")
    assert not folded.config.tie_embeddings
    assert all((weight == 1).all() for name, weight in folded.model.named_parameters() if ".ln" in name)
    difference = (folded.model(folded.tokens(PROMPT)) - words.model(words.tokens(PROMPT))).abs().max().item()
    assert found["largest_difference"] == difference
    assert difference < 1e-5 * found["largest_logit"]  # float32
    code, out, err = cutaway("interpret", "fold", "words", "--out", "folded")
    assert (code, out) == (2, "")
    assert "folded is there already" in err
    code, out, err = cutaway("interpret", "fold", "words", "--centre")
    assert (code, out) == (2, "")
    assert "this model's norm is 'rmsnorm'" in err
    assert sorted(each.name for each in tmp_path.iterdir() if each.is_dir()) == ["folded", "words"]

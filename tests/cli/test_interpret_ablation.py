"""`cutaway interpret ablate`, `importance` and `weights`, on a tiny model whose tokens are words."""

import json

import pytest
import torch

from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.tokenizers import BPETokenizer
from cutaway.weights import save_hugging_face

PROMPT = "The capital of France is"
TEXT = "The capital of France is Paris\nThe capital of England is London\n" * 40
ANSWERS = ["--text", PROMPT, "--target", "Paris", "--wrong", "London"]
COMMANDS = {
    "ablate": ANSWERS,
    "ablate --what layer": ["--text", PROMPT, "--text", "The capital of England is", "--how", "mean"],
    "ablate --what position": ["--text", PROMPT, "--how", "resample", "--reference", TEXT[:31]],
    "ablate --what neuron --layer 1": ["--text", PROMPT],
    "ablate --layer 0 --head 1": ANSWERS,
    "importance": ["--text", PROMPT, "--text", "The capital of England is"],
    "weights": [],
    "weights --layer 1": [],
    "weights --layer 1 --head 0": [],
    "weights --layer 1 --head 0 --circuit qk": [],
}


@pytest.fixture
def words(tmp_path):
    """A folder with a model that has never learned anything."""
    tokenizer = BPETokenizer.train(TEXT, 290)
    shape = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=32, n_layers=2, n_heads=2, d_model=16)
    lm = LanguageModel(Transformer(shape, generator=torch.Generator().manual_seed(0)), tokenizer)
    save_hugging_face(lm, tmp_path / "words")
    return lm


@pytest.mark.parametrize("command", COMMANDS)
def test_it_is_shown_printed_and_written(cutaway, words, command, tmp_path):
    verb, *options = command.split()
    call = ["interpret", verb, "words", *options, *COMMANDS[command]]
    code, out, err = cutaway(*call, "--report", "found.html")
    assert (code, err) == (0, "words\n\n"), err
    assert max(map(len, (line for line in out.splitlines()[2:] if not line.startswith("The report")))) <= 80
    assert "<svg" in (tmp_path / "found.html").read_text()
    code, out, err = cutaway(*call, "--json")
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
        (["ablate", "words", "--text", PROMPT, "--what", "neuron"], "name the layers"),
        (["weights", "words", "--head", "1"], "give --layer too"),
        (["weights", "words", "--layer", "7"], "no layer 7"),
    ],
)
def test_mistakes_are_one_sentence(cutaway, words, options, sentence):
    code, out, err = cutaway("interpret", *options)
    assert code in (1, 2)
    assert sentence in err, err
    assert not out

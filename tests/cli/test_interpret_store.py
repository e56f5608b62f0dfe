"""`cutaway interpret store` on a tiny model: estimated, written, gone on with, refused."""

import json

import pytest
import torch

from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.interp.store import open_store
from cutaway.tokenizers import BPETokenizer
from cutaway.weights import save_hugging_face

TEXT = "The capital of France is Paris\nThe capital of England is London\n" * 40
CALL = ["interpret", "store", "words", "--data", "text.txt", "--names", "blocks.*.resid_post", "--n-ctx", "16"]


@pytest.fixture
def words(tmp_path):
    """A folder with a model that has never learned anything, and a text."""
    tokenizer = BPETokenizer.train(TEXT, 290)
    shape = ModelConfig(d_vocab=tokenizer.d_vocab, n_ctx=32, n_layers=2, n_heads=2, d_model=16)
    save_hugging_face(LanguageModel(Transformer(shape, generator=torch.Generator().manual_seed(0)), tokenizer), tmp_path / "words")
    (tmp_path / "text.txt").write_text(TEXT)


def test_without_a_folder_it_is_estimated(cutaway, words, tmp_path):
    code, out, err = cutaway(*CALL)
    assert (code, err) == (0, "Nothing is written: --out FOLDER does that.\n"), err
    assert not (tmp_path / "kept").exists()
    assert out.startswith("Activation store, estimated\n")
    assert "rows of 2 activations, from" in out
    assert "tokens/s, measured on" in out
    code, out, _ = cutaway(*CALL, "--dtype", "bfloat16", "--max-tokens", "100", "--json")
    found = json.loads(out)
    assert (code, found["n_rows"], found["dtype"], found["shapes"]["blocks.1.resid_post"]) == (0, 100, "bfloat16", [16])
    assert found["gib"] == pytest.approx((100 * 2 * 2 * 16 + 100 * 4) / 2**30)  # two rows of 16 bfloat16 a token, and its id


def test_it_is_written_shown_and_reported(cutaway, words, tmp_path):
    code, out, err = cutaway(*CALL, "--out", "kept", "--report", "kept.html")
    assert code == 0, err
    assert "rows of 2 activations, from" in err  # how much it will be is said first
    assert max(map(len, (line for line in out.splitlines()[2:] if not line.startswith("The report")))) <= 80
    assert "blocks.1.resid_post" in out
    assert "<svg" in (tmp_path / "kept.html").read_text()
    kept = open_store("kept")
    kept.verify()
    assert kept.dtype == torch.float32
    assert cutaway(*CALL, "--out", "kept")[1] == out.rsplit("\nThe report")[0]  # there is nothing left to do
    code, out, err = cutaway(*CALL, "--out", "first", "--skip-first", "--json")
    assert (code, json.loads(out)["first_position"]) == (0, 1)


def test_the_worked_example_writes_nothing(cutaway, words, tmp_path):
    code, out, err = cutaway("interpret", "store", "words", "--demo", "--data", "text.txt", "--names", "blocks.1.resid_post")
    assert code == 0, err
    assert "Nothing is written: --out FOLDER does that." in err
    assert out.startswith("Activation store, estimated\n")
    assert {path.name for path in tmp_path.iterdir()} <= {"words", "text.txt", "cache"}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--out", "kept", "--dtype", "float16"],
            "blocks.1.resid_post in float32, not blocks.0.resid_post, blocks.1.resid_post in float16: give the same",
        ),
        (["--out", "words"], "words holds other things"),
        (["--names", "blocks.0.attn.pattern"], "has no row a token"),
        (["--data", "nowhere.txt"], "there is no file, folder or glob match"),
        (["--n-ctx", "33"], "ctx is at least 1 and at most 32"),
    ],
)
def test_mistakes_are_one_sentence(cutaway, words, options, sentence):
    assert cutaway(*CALL, "--out", "kept")[0] == 0
    code, out, err = cutaway(*CALL, *options)
    assert (code, out) == (2, "")
    assert sentence in " ".join(err.split())

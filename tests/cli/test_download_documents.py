"""`cutaway download` of documents: what is made, what is said, and what is refused."""

import json

import pytest

from cutaway.data import DocumentShards
from cutaway.report.numbers import parse_bytes, parse_count
from cutaway.tokenizers import BPETokenizer, BytePairTokenizer
from web_documents import make_texts, small_tokenizer, write_parquet


@pytest.fixture
def pages(tmp_path):
    """Pages in the folder where the command runs, and a tokenizer."""
    small_tokenizer().save(tmp_path / "small.json")
    return write_parquet(tmp_path / "pages.parquet", make_texts(300))


def test_documents_become_shards(cutaway, pages, tmp_path):
    code, out, err = cutaway("download", "--documents", "pages.parquet", "--tokenizer", "small.json", "--out", "shards")
    assert (code, err) == (0, "")
    shards = DocumentShards.open(tmp_path / "shards")
    lines = out.splitlines()
    assert lines[0].startswith(f"{shards.n_documents():,} documents of pages.parquet, ")
    assert lines[0].endswith(" in shards")
    train, validation = shards.n_tokens("train"), shards.n_tokens("validation")
    assert lines[1] == f"{train:,} tokens to train on, {validation:,} to validate"
    for given in (("--documents", "pages.parquet", "--out", "shards"), ("shards",)):
        assert cutaway("download", *given, "--verify")[1] == "shards: 2 shards, whole\n"


def test_a_tokenizer_that_cannot_separate_documents_gets_an_id_for_it(cutaway, pages, tmp_path):
    bpe = BPETokenizer.train("the school teaches how rivers carry stones " * 20, d_vocab=280)
    BytePairTokenizer.from_bpe(bpe).save(tmp_path / "own.json")
    code, _, err = cutaway("download", "--documents", "pages.parquet", "--tokenizer", "own.json", "--out", "shards")
    assert code == 0
    assert f"has no <|endoftext|> to separate documents: in the shards' own it has the id {bpe.d_vocab}" in " ".join(err.split())
    shards = DocumentShards.open(tmp_path / "shards")
    assert shards.tokenizer().eot == bpe.d_vocab == shards.read("train", 0)[0]
    ids = [int(token) for token in shards.read("train", 0) if token != bpe.d_vocab]
    assert shards.tokenizer().decode(ids) == BytePairTokenizer.from_bpe(bpe).decode(ids)


def test_shards_are_not_read_as_text(cutaway, pages, tmp_path):
    cutaway("download", "--documents", "pages.parquet", "--tokenizer", "small.json", "--out", "shards")
    (tmp_path / "shards" / "manifest.json").unlink()
    code, _, err = cutaway("train", "--data", "shards")
    assert code == 2
    assert "shards holds token shards (train-000000.bin), and no text to read" in " ".join(err.split())
    code, _, err = cutaway("train", "--data", "pages.parquet")
    assert code == 2
    assert "pages.parquet is parquet, and no text: `cutaway download --documents pages.parquet --out shards` makes" in " ".join(
        err.split()
    )


def test_as_many_as_are_asked_for(cutaway, pages, tmp_path):
    given = ("download", "--documents", "pages.parquet", "--tokenizer", "small.json", "--out", "shards", "--json")
    said = json.loads(cutaway(*given, "--tokens", "2k")[1])
    assert 2000 <= said["train_tokens"] + said["validation_tokens"] < 2200
    assert said["has_more"]
    said = json.loads(cutaway(*given, "--cap", "10kB")[1])
    assert 9000 < said["n_bytes"] <= 10_000
    code, _, err = cutaway(*given[:-1], "--tokens", "1M")
    assert code == 0
    assert "[these are fewer than the 1,000,000 tokens asked for: the source has no more]" in err.replace("\n", " ")


def test_a_damaged_shard_is_found_and_made_again(cutaway, pages, tmp_path):
    given = ("download", "--documents", "pages.parquet", "--tokenizer", "small.json", "--out", "shards")
    cutaway(*given)
    path = tmp_path / "shards" / "train-000000.bin"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\xff")
    code, _, err = cutaway(*given, "--verify")
    assert code == 1
    assert "train-000000.bin is not as it was written" in err.replace("\n", "")
    path.unlink()
    assert cutaway(*given)[0] == 0
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--documents", "pages.parquet", "--documents", "small.json"), "--documents takes one file, folder or glob"),
        (("--documents", "pages.parquet"), "--documents needs --out FOLDER, where the shards go"),
        (
            ("--documents", "nowhere", "--out", "shards"),
            "there is no file, folder or glob match 'nowhere'; documents with a name are",
        ),
        (("--documents", "pages.parquet", "stdlib"), "--documents and NAME do not go together"),
        (("--documents", "pages.parquet", "--all"), "--all and --documents do not go together"),
        (("--tokens", "5M"), "--tokens is of documents: name fineweb-edu, or give --documents PATH"),
        (("stdlib", "--cap", "1GB"), "--cap is of documents"),
        (("fineweb",), "'fineweb' is no asset; did you mean 'fineweb-edu'?"),
        (("fineweb-edu", "stdlib"), "fineweb-edu is many documents, made token shards: download it by itself"),
        (("fineweb-edu", "--tokens", "many"), "'many' is not a whole number such as 200000, 50M or 1.5B"),
        (("fineweb-edu", "--cap", "1XB"), "'1XB' is not a size such as 250MB or 1GB"),
        (
            ("--documents", "small.json", "--tokenizer", "gpt3", "--out", "shards"),
            "there is no tokenizer 'gpt3'; give gpt2, cl100k, or a tokenizer.json",
        ),
    ],
)
def test_mistakes_are_one_sentence(cutaway, pages, tmp_path, given, said):
    given = ("download", *given)
    code, out, err = cutaway(*given)
    assert (code, out) == (2, "")
    assert said in " ".join(err.split())
    assert err.count("cutaway: ") == 1
    assert not (tmp_path / "shards").exists()


def test_numbers_as_people_write_them():
    assert [parse_count(text) for text in ("7", "200_000", "2,000", "1.5k", "50M", "1.5B", "1T")] == [
        7, 200_000, 2000, 1500, 50_000_000, 1_500_000_000, 10**12,
    ]  # fmt: skip
    assert [parse_bytes(text) for text in ("4096", "4096B", "1kB", "2.5 MB", "1GB", "1g")] == [
        4096, 4096, 1000, 2_500_000, 10**9, 10**9,
    ]  # fmt: skip
    for text in ("", "-1", "1e6", "M", "5X", "1..5M"):
        with pytest.raises(ValueError, match="is not a whole number"):
            parse_count(text)
        with pytest.raises(ValueError, match="is not a size"):
            parse_bytes(text)

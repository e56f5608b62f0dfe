"""A corpus as ids: encoded once, kept by the hashes of text and tokenizer, made again when damaged; and split as nanoGPT does."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from cutaway.data import Corpus, read_corpus, split_tokens, stream_corpus, text, tokenize_corpus, tokenize_source, tokenized
from cutaway.tokenizers import BPETokenizer, BytePairTokenizer, CharTokenizer, Tokenizer, tokenizer_hash
from kill_repeatedly import kill_repeatedly
from tiny_training import hashes
from web_documents import make_texts

TEXT = "the quick brown fox jumps over the lazy dog\n" * 20


def corpus_of(text: str) -> Corpus:
    return Corpus("some text", text, hashlib.sha256(text.encode()).hexdigest())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path))
    return tmp_path / "tokens"


@pytest.fixture
def n_encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the length of each text that is encoded."""
    lengths: list[int] = []
    encode = Tokenizer.encode

    def counting(self: Tokenizer, text: str, *, allow_special: bool = False) -> list[int]:
        lengths.append(len(text))
        return encode(self, text, allow_special=allow_special)

    monkeypatch.setattr(Tokenizer, "encode", counting)
    return lengths


def test_the_ids_are_the_tokenizers(cache: Path) -> None:
    for tokenizer in (CharTokenizer.fit(TEXT), BPETokenizer.train(TEXT, d_vocab=270)):
        tokens = tokenize_corpus(corpus_of(TEXT), tokenizer)
        assert isinstance(tokens, np.memmap)
        assert tokens.tolist() == tokenizer.encode(TEXT)
        assert tokenizer.decode(tokens.tolist()) == TEXT
    assert len(list(cache.glob("*.bin"))) == 2


def test_they_are_made_once(cache: Path, n_encoded: list[int]) -> None:
    tokenizer = CharTokenizer.fit(TEXT)
    first = tokenize_corpus(corpus_of(TEXT), tokenizer).tolist()
    assert tokenize_corpus(corpus_of(TEXT), CharTokenizer.fit(TEXT)).tolist() == first
    assert n_encoded == [len(TEXT)]
    # another text, and the same text by another tokenizer, are others
    assert len(tokenize_corpus(corpus_of(TEXT + "dog"), tokenizer)) == len(TEXT) + 3
    assert tokenize_corpus(corpus_of(TEXT), CharTokenizer.fit(TEXT + "!")).tolist() != first
    assert len(n_encoded) == 3


@pytest.mark.parametrize("size", [0, 1, 500, 1024, -2])
def test_they_are_made_again_when_damaged(cache: Path, n_encoded: list[int], size: int) -> None:
    tokenizer = CharTokenizer.fit(TEXT)
    first = tokenize_corpus(corpus_of(TEXT), tokenizer).tolist()
    (path,) = cache.glob("*.bin")
    path.write_bytes(path.read_bytes()[:size])
    assert tokenize_corpus(corpus_of(TEXT), tokenizer).tolist() == first
    assert len(n_encoded) == 2
    assert tokenize_corpus(corpus_of(TEXT), tokenizer).tolist() == first
    assert len(n_encoded) == 2


def test_the_manifest_says_what_they_are(cache: Path) -> None:
    tokenizer, corpus = CharTokenizer.fit(TEXT), corpus_of(TEXT)
    tokenize_corpus(corpus, tokenizer)
    (manifest,) = cache.glob("*.json")
    assert json.loads(manifest.read_text()) == {
        "n_tokens": len(TEXT),
        "d_vocab": tokenizer.d_vocab,
        "corpus": "some text",
        "corpus_sha256": corpus.sha256,
        "tokenizer": "char",
        "tokenizer_sha256": tokenizer_hash(tokenizer),
    }


def test_the_split_is_nanogpts() -> None:
    tokens = np.arange(1_115_394, dtype=np.uint32)  # the characters of tiny Shakespeare
    train, validation = split_tokens(tokens)
    assert (len(train), len(validation)) == (1_003_854, 111_540)  # data/shakespeare_char/readme.md
    assert np.array_equal(np.concatenate([train, validation]), tokens)
    assert np.shares_memory(train, tokens)


@pytest.mark.parametrize(("fraction", "n_train"), [(0.0, 10), (0.5, 5), (0.25, 7), (0.99, 0)])
def test_other_fractions(fraction: float, n_train: int) -> None:
    train, validation = split_tokens(np.arange(10, dtype=np.uint16), validation_fraction=fraction)
    assert (len(train), len(validation)) == (n_train, 10 - n_train)


@pytest.mark.parametrize("fraction", [1.0, -0.1, 2.0, float("nan")])
def test_fractions_that_are_none(fraction: float) -> None:
    with pytest.raises(ValueError, match=f"validation_fraction is {fraction}; expected at least 0 and less than 1"):
        split_tokens(np.arange(10, dtype=np.uint16), validation_fraction=fraction)


def write_files(folder: Path) -> Path:
    """Files whose text has everything that a cut could spoil: blanks in rows, empty lines, long words, characters of four bytes."""
    folder.mkdir()
    words = "Größe naïve 漢字かな 🙂🙃 x\n\n\n    indented\t\ttabs -- === !!!...\n1234567 don't  two  blanks\r\nend. \n" * 5
    (folder / "a.txt").write_bytes(b"\xef\xbb\xbf" + words.encode())
    (folder / "b.txt").write_text("a" * 300 + "\n" + "word " * 60)
    (folder / "c.txt").write_text("")
    (folder / "d.txt").write_text("   \nlast line without an end")
    return folder


@pytest.mark.parametrize("n_bytes", [7, 64, 2**20])
def test_pieces_are_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    folder = write_files(tmp_path / "text")
    whole = "\n".join(file.read_bytes().decode("utf-8-sig") for file in sorted(folder.iterdir()))
    monkeypatch.setattr(text, "_PIECE_BYTES", n_bytes)
    assert "".join(stream_corpus(folder)) == whole
    assert read_corpus(folder) == Corpus(str(folder), whole, hashlib.sha256(whole.encode()).hexdigest())


def test_a_byte_that_is_no_text_is_found_in_any_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "_PIECE_BYTES", 4)
    for content, said in ((b"\xc3\xa9" * 7 + b"\xff!", "byte 14 is 0xff"), (b"abcdefg\xc3", "byte 7 is 0xc3"), (b"ab\0", "NUL")):
        (tmp_path / "bad.txt").write_bytes(content)
        with pytest.raises(ValueError, match=said):
            read_corpus(tmp_path / "bad.txt")


@pytest.mark.parametrize("n_at_once", [40, 150, 10_000])
def test_a_text_encoded_in_stretches_has_the_same_ids(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_encoded: list[int], n_at_once: int
) -> None:
    folder = write_files(tmp_path / "text")
    corpus = read_corpus(folder)
    monkeypatch.setattr(text, "_PIECE_BYTES", 16)
    monkeypatch.setattr(tokenized, "_AT_ONCE", n_at_once)
    bpe = BPETokenizer.train(corpus.text, d_vocab=330)
    for tokenizer in (CharTokenizer.fit(corpus.text), bpe, BytePairTokenizer.from_bpe(bpe)):
        n_encoded.clear()
        found = tokenize_source(folder, tokenizer).tolist()
        longest = max(n_encoded)
        assert found == tokenizer.encode(corpus.text)
        assert longest < (n_at_once + 400 if n_at_once < 1000 else len(corpus.text) + 1)  # b.txt's first line is not cut
        n_encoded.clear()
        assert tokenize_corpus(corpus, tokenizer).tolist() == found  # the same file of the cache
        assert not n_encoded


@pytest.mark.parametrize("n_kills", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_anywhere_the_ids_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str], n_kills: int) -> None:
    (tmp_path / "text.txt").write_text("\n".join(make_texts(6000)))
    n_bytes = kill_repeatedly("encode", tmp_path, n_kills, tmp_path / "text.txt")
    whole, killed = hashes(tmp_path / "whole" / "tokens"), hashes(tmp_path / "killed" / "tokens")
    with capsys.disabled():
        print(f"\n{n_kills} kills of the encoding of a text; bytes in the cache then: {', '.join(map(str, n_bytes))}")
    assert whole == killed
    assert sorted(name.rpartition(".")[2] for name in whole) == ["bin", "json", "lock"]  # nothing that was begun is left
    assert any(0 < size < max(n_bytes) for size in n_bytes), "no kill came in the midst of it"


def test_one_process_encodes_and_the_other_waits(cache: Path, n_encoded: list[int]) -> None:
    tokenizer, corpus = CharTokenizer.fit(TEXT), corpus_of(TEXT)
    with ThreadPoolExecutor(4) as pool:
        found = [tokens.tolist() for tokens in pool.map(lambda _: tokenize_corpus(corpus, tokenizer), range(4))]
    assert found == [tokenizer.encode(TEXT)] * 4
    assert n_encoded.count(len(TEXT)) == 1 + 1  # the last is the line above


def test_a_shard_whose_manifest_was_not_reached_is_made_again(cache: Path, n_encoded: list[int]) -> None:
    tokenizer, corpus = CharTokenizer.fit(TEXT), corpus_of(TEXT)
    tokenize_corpus(corpus, tokenizer)
    (manifest,) = cache.glob("*.json")
    written = manifest.read_text()
    manifest.unlink()
    tokenize_corpus(corpus, tokenizer)
    assert manifest.read_text() == written
    assert len(n_encoded) == 2

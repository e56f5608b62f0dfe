"""Text from a file, a folder, a glob or by name; and what is no text is refused by a sentence that names it."""

import hashlib
from pathlib import Path

import pytest

from cutaway.data import CORPORA, read_corpus


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize("text", ["To be", "naïve 日本語 😀\n", "two\r\nlines\r\n", "no end", " \tindented\n\n"])
def test_a_file_is_read_as_it_is(tmp_path: Path, text: str) -> None:
    file = write(tmp_path / "play.txt", text)
    corpus = read_corpus(file)
    assert corpus.text == text
    assert corpus.name == str(file)
    assert corpus.sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert read_corpus(str(file)) == corpus


def test_any_suffix_will_do_for_a_file_that_is_named(tmp_path: Path) -> None:
    assert read_corpus(write(tmp_path / "PLAY.unknown", "x")).text == "x"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    assert read_corpus(write(tmp_path / "a.txt", b"\xef\xbb\xbfabc\xef\xbb\xbf")).text == "abc\ufeff"


def test_a_folder_gives_its_text_files_in_the_order_of_their_paths(tmp_path: Path) -> None:
    write(tmp_path / "b.txt", "second")
    write(tmp_path / "a" / "deep" / "x.MD", "first")
    write(tmp_path / "c.py", "third\n")
    write(tmp_path / "picture.png", b"\x89PNG\0")
    write(tmp_path / "notes.bin", "not taken")
    corpus = read_corpus(tmp_path)
    assert corpus.text == "first\nsecond\nthird\n"
    assert corpus.sha256 == hashlib.sha256(corpus.text.encode()).hexdigest()


def test_a_glob_gives_every_file_it_matches(tmp_path: Path) -> None:
    write(tmp_path / "b.log", "second")
    write(tmp_path / "a.log", "first")
    write(tmp_path / "deep" / "c.log", "third")
    (tmp_path / "folder.log").mkdir()
    assert read_corpus(f"{tmp_path}/*.log").text == "first\nsecond"
    assert read_corpus(f"{tmp_path}/**/*.log").text == "first\nsecond\nthird"


def test_a_file_whose_name_looks_like_a_glob(tmp_path: Path) -> None:
    assert read_corpus(write(tmp_path / "a[1].txt", "x")).text == "x"


def test_a_corpus_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The standard library's, which every machine can make by itself; made once, then read from the cache."""
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path))
    corpus = read_corpus("stdlib")
    assert corpus.name == "stdlib"
    assert "stdlib" in CORPORA
    assert len(corpus.text) > 1_000_000
    assert "def namedtuple(" in corpus.text
    assert corpus.sha256 == hashlib.sha256(corpus.text.encode()).hexdigest()
    assert read_corpus("stdlib") == corpus


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "holds no text: give a file with something to learn from"),
        (b" \n\t\n", "holds no text"),
        (b"\xef\xbb\xbf", "holds no text"),
        (b"abc\0def", "is a binary file"),
        ("abc".encode("utf-16"), "is a binary file"),
        (b"caf\xe9", "is not UTF-8 text .byte 3 is 0xe9.; convert it first"),
        (b"\xff\xfe", "is not UTF-8 text .byte 0 is 0xff."),
        ("é".encode()[:1], "is not UTF-8 text"),
    ],
)
def test_what_is_no_text(tmp_path: Path, content: bytes, sentence: str) -> None:
    file = write(tmp_path / "a.txt", content)
    for source in (file, tmp_path):
        with pytest.raises(ValueError, match=sentence) as caught:
            read_corpus(source)
        assert str(source) in str(caught.value)


def test_what_is_not_there(tmp_path: Path) -> None:
    for source in (tmp_path / "absent.txt", f"{tmp_path}/*.txt"):
        with pytest.raises(ValueError, match=r"there is no file, folder or glob match .* tinyshakespeare, shakespeare, stdlib"):
            read_corpus(source)
    write(tmp_path / "picture.png", "x")
    with pytest.raises(ValueError, match="holds no text file"):
        read_corpus(tmp_path)

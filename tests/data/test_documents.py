"""Documents of parquet, JSON lines and text, whole and from any place on, and what is said of files that are none."""

import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cutaway.data import documents, open_documents
from cutaway.data.documents import Document, Place
from web_documents import make_texts, write_parquet

TEXTS = make_texts(200)
KEPT = [(row, text) for row, text in enumerate(TEXTS) if text.strip()]


def write_lines(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"id": number, "text": text}) + "\n" for number, text in enumerate(texts)))
    return path


@pytest.mark.parametrize("row_group_size", [1, 37, 1000])
@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_rows_are_documents_and_go_on_from_any_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, row_group_size: int
) -> None:
    monkeypatch.setattr(documents, "_ROWS_AT_ONCE", 16)
    for name in ("b", "a"):
        if kind == "parquet":
            write_parquet(tmp_path / f"{name}.parquet", TEXTS, row_group_size=row_group_size)
        else:
            write_lines(tmp_path / f"{name}.jsonl", TEXTS)
    source = open_documents(tmp_path)
    assert [file.name for file in source.files] == [f"a.{kind}", f"b.{kind}"]
    expected = [Document(text, Place(file, row)) for file in (0, 1) for row, text in KEPT]
    assert list(source.documents()) == expected
    for row in (0, 1, 36, 37, 38, 74, 111, 150, 199, 200):
        assert list(source.documents(Place(0, row))) == [each for each in expected if each.place >= (0, row)]
    assert list(source.documents(Place(1, 200))) == []
    assert list(source.documents(Place(2, 0))) == []


def test_a_row_without_a_text_is_none(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["one", None, "three"])
    assert [each.text for each in open_documents(tmp_path / "a.parquet").documents()] == ["one", "three"]
    (tmp_path / "a.jsonl").write_text('{"text": "one"}\n\n{"text": null}\r\n{"text": "three"}')
    found = list(open_documents(tmp_path / "a.jsonl").documents())
    assert found == [Document("one", Place(0, 0)), Document("three", Place(0, 3))]


def test_dictionaries_and_large_strings_are_texts_too(tmp_path: Path) -> None:
    for number, kind in enumerate([pa.large_string(), pa.dictionary(pa.int32(), pa.string())]):
        pq.write_table(pa.table({"text": pa.array(["one", "two", "one"]).cast(kind)}), tmp_path / f"{number}.parquet")
        read = open_documents(tmp_path / f"{number}.parquet")
        assert [each.text for each in read.documents()] == ["one", "two", "one"]


def test_text_files_are_documents_and_long_ones_are_cut_at_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "long.txt").write_text("first line\nsecond line\n" + "x" * 30 + "\nend")
    (tmp_path / "a.md").write_bytes(b"\xef\xbb\xbfshort")
    (tmp_path / ".hidden.txt").write_text("not this")
    monkeypatch.setattr(documents, "_LONGEST_PART", 24)
    found = list(open_documents(tmp_path).documents())
    cut = ["first line\nsecond line\n", "x" * 24, "xxxxxx\nend"]
    assert found == [Document("short", Place(0, 0)), *(Document(text, Place(1, row)) for row, text in enumerate(cut))]
    assert list(open_documents(tmp_path).documents(Place(1, 2))) == found[3:]


def test_of_a_folder_all_rows_or_else_the_texts(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("about the data")
    assert [each.text for each in open_documents(tmp_path).documents()] == ["about the data"]
    write_lines(tmp_path / "a.jsonl", ["a line"])
    write_parquet(tmp_path / "data" / "b.parquet", ["a row"])
    with pytest.warns(UserWarning, match=r"holds texts too \(README.md\), which are left out"):
        assert [each.text for each in open_documents(tmp_path).documents()] == ["a line", "a row"]
    assert [file.name for file in open_documents(tmp_path / "*").files] == ["README.md", "a.jsonl"]
    assert [file.name for file in open_documents(tmp_path / "**/*.*[lt]").files] == ["a.jsonl", "data/b.parquet"]


def read_all(path: Path) -> None:
    for _ in open_documents(path).documents():
        continue


@pytest.mark.parametrize("size", [0, 3, 100, 0.5, -1])
def test_a_parquet_file_that_was_cut_short(tmp_path: Path, size: float) -> None:
    path = write_parquet(tmp_path / "a.parquet", TEXTS)
    content = path.read_bytes()
    path.write_bytes(content[: int(size * len(content)) if isinstance(size, float) else size])
    with pytest.raises(ValueError, match=rf"^{path} is no whole parquet file \(.+\): get it again$"):
        read_all(path)


def test_a_parquet_file_that_is_damaged_within(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", TEXTS, row_group_size=1000)
    content = bytearray(path.read_bytes())
    content[20:400] = bytes(380)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{path} is no whole parquet file \(.+\): get it again$") as caught:
        read_all(path)
    assert "\n" not in str(caught.value)


def test_a_parquet_file_without_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"content": ["a"], "url": ["b"]}), path)
    with pytest.raises(ValueError, match=r"a.parquet has no column 'text'; its columns are content, url: rename the one"):
        read_all(path)
    pq.write_table(pa.table({"text": [1, 2]}), path)
    with pytest.raises(ValueError, match=r"the column 'text' of .*a.parquet holds int64; expected strings"):
        read_all(path)
    pq.write_table(pa.table({"text": pa.array([b"good", b"\xff bad"]).view(pa.string())}), path)
    with pytest.raises(ValueError, match=r"a.parquet has texts that are not UTF-8"):
        read_all(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"text": "a"}\n{"text": ', "line 2 of .*a.jsonl cannot be read: it is no JSON"),
        (b'{"text": "a"}\n{"text": "\xff"}', "line 2 of .*a.jsonl cannot be read: it is no UTF-8 text"),
        (b'{"content": "a", "url": "b"}', "line 1 of .*a.jsonl has no field 'text'; its fields are content, url"),
        (b'["a"]', r"line 1 of .*a.jsonl has no field 'text'; it holds \['a'\]: expected an object"),
        (b'{"text": 7}', "the field 'text' in line 1 of .*a.jsonl is 7; expected a text"),
    ],
)
def test_lines_that_are_no_documents(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_all(tmp_path / "a.jsonl")


def test_texts_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(ValueError, match=r"a.txt is not UTF-8 text"):
        read_all(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"abc\0")
    with pytest.raises(ValueError, match=r"a.txt is a binary file"):
        read_all(tmp_path / "a.txt")


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no parquet, JSON lines or text file"):
        open_documents(tmp_path)
    with pytest.raises(ValueError, match="there is no file, folder or glob match"):
        open_documents(tmp_path / "*.parquet")


def test_without_pyarrow_a_sentence_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_parquet(tmp_path / "a.parquet", TEXTS)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ValueError, match=r"read with pyarrow, which is not installed: pip install 'cutaway\[data\]'"):
        read_all(path)

"""Documents to shards: against shards put together by hand, and the same whatever interrupts the making."""

import hashlib
import json
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cutaway.data import DocumentShards, open_documents, read_shard, read_shard_manifest, write_document_shards
from cutaway.data.document_shards import SIDES, shard_path
from cutaway.tokenizers import END_OF_TEXT, CharTokenizer, Tokenizer, load_tokenizer, tokenizer_hash
from tiny_training import hashes
from web_documents import make_texts, small_tokenizer, write_parquet

TOKENIZER = small_tokenizer()
SETTINGS: dict[str, Any] = {"shard_tokens": 1000, "validation_fraction": 0.25}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two files of 150 rows; some texts are in both."""
    for number in range(2):
        write_parquet(tmp_path / "source" / f"{number}.parquet", make_texts(150, seed=number))
    return tmp_path / "source"


TEXTS = [text for number in range(2) for text in make_texts(150, seed=number) if text.strip()]


def make(source: Path, folder: Path, tokenizer: Tokenizer = TOKENIZER, **changes: Any) -> DocumentShards:
    return write_document_shards(open_documents(source), folder, tokenizer, **(SETTINGS | changes))


def shards_of(texts: Sequence[str]) -> list[dict[str, list[int]]]:
    """The shards by another way: one loop, the plain encoder, and the share of 2^64 that a hash's first 8 bytes are."""
    pairs: list[dict[str, list[int]]] = [{"train": [], "validation": []}]
    for text in texts:
        if len(pairs[-1]["train"]) >= 1000:
            pairs.append({"train": [], "validation": []})
        is_kept_out = int(hashlib.sha256(text.encode()).hexdigest()[:16], 16) < 0.25 * 2**64
        pairs[-1]["validation" if is_kept_out else "train"] += [TOKENIZER.special_tokens[END_OF_TEXT], *TOKENIZER.encode(text)]
    return pairs


def test_the_shards_are_those_made_by_hand(source: Path, tmp_path: Path) -> None:
    shards = make(source, tmp_path / "out")
    expected = shards_of(TEXTS)
    assert len(shards.pairs) == len(expected) > 5
    for number, pair in enumerate(expected):
        for side in SIDES:
            path = shard_path(tmp_path / "out", side, number)
            assert path.name == f"{side}-{number:06d}.bin"
            assert shards.read(side, number).tolist() == read_shard(path).tolist() == pair[side]
            record = getattr(shards.pairs[number], side)
            assert record.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
            assert record.n_documents == pair[side].count(TOKENIZER.eot or -1)
            assert read_shard_manifest(path)["tokenizer_sha256"] == tokenizer_hash(TOKENIZER)
    assert shards.n_documents() == len(TEXTS)
    assert shards.n_tokens("train") == sum(len(pair["train"]) for pair in expected)
    assert shards.state == "exhausted"
    assert tokenizer_hash(shards.tokenizer()) == tokenizer_hash(TOKENIZER)
    assert DocumentShards.open(tmp_path / "out") == shards
    assert not list(shards.verify())


def test_no_text_is_on_both_sides(source: Path, tmp_path: Path) -> None:
    shards = make(source, tmp_path / "out")
    found: dict[str, set[str]] = {}
    for side in SIDES:
        ids = np.concatenate([shards.read(side, number) for number in range(len(shards.pairs))])
        found[side] = {TOKENIZER.decode(part.tolist()[1:]) for part in np.split(ids, np.flatnonzero(ids == TOKENIZER.eot)[1:])}
    assert found["train"] | found["validation"] == set(TEXTS)
    assert not found["train"] & found["validation"]
    assert 0.15 < len(found["validation"]) / len(set(TEXTS)) < 0.35  # a quarter, of about 280: three standard errors are 0.08


def test_threads_and_lots_change_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cutaway.data import document_writing

    make(source, tmp_path / "one", n_workers=1)
    monkeypatch.setattr(document_writing, "_AT_ONCE", 50)
    make(source, tmp_path / "many", n_workers=7)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "many")


def test_a_jsonl_of_the_same_rows_gives_the_same_tokens(source: Path, tmp_path: Path) -> None:
    (tmp_path / "all.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    a, b = make(source, tmp_path / "a"), make(tmp_path / "all.jsonl", tmp_path / "b")
    assert [(pair.train, pair.validation) for pair in a.pairs] == [(pair.train, pair.validation) for pair in b.pairs]


class Stop(Exception):
    """What stops the making here."""


def test_stopped_anywhere_and_gone_on_with_it_is_the_same(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "whole")
    for n_tokens in (0, 1500, 4000, 4001, 7000):

        def stop(n_done: int, n_total: int | None, n_tokens: int = n_tokens) -> None:
            if n_done >= n_tokens:
                raise Stop

        with pytest.raises(Stop):
            make(source, tmp_path / "out", progress=stop)
        begun = DocumentShards.open(tmp_path / "out")
        assert begun.state == "growing"
        assert n_tokens < 2500 or begun.pairs
    make(source, tmp_path / "out")
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")
    done: list[int] = []
    make(source, tmp_path / "out", progress=lambda n_done, n_total: done.append(n_done))
    assert not done  # there is nothing to do


def test_it_stops_at_a_number_of_tokens_and_goes_on_to_a_larger(source: Path, tmp_path: Path) -> None:
    whole = make(source, tmp_path / "whole")
    totals: set[int | None] = set()
    some = make(source, tmp_path / "out", n_tokens=3000, progress=lambda _, n_total: totals.add(n_total))
    assert totals == {3000}
    assert some.state == "reached"
    assert 3000 <= some.n_tokens() < 3000 + 200  # to the end of a document
    assert some.pairs[0] == whole.pairs[0]
    assert make(source, tmp_path / "out", n_tokens=2000) == some  # there is more than that already
    before = hashes(tmp_path / "out")
    assert make(source, tmp_path / "out", n_tokens=5000).n_tokens() >= 5000
    more = make(source, tmp_path / "out", n_tokens=10**9)
    assert more.state == "exhausted"
    assert more.pairs[: len(some.pairs)] == some.pairs  # nothing that someone may be reading was touched
    after = hashes(tmp_path / "out")
    assert {name: after[name] for name in before if name != "manifest.json"} == {
        name: value for name, value in before.items() if name != "manifest.json"
    }
    for side in SIDES:
        assert np.concatenate([more.read(side, number) for number in range(len(more.pairs))]).tolist() == (
            np.concatenate([whole.read(side, number) for number in range(len(whole.pairs))]).tolist()
        )


def test_a_cap_counts_where_it_was_what_stopped_the_making(source: Path, tmp_path: Path) -> None:
    few = make(source, tmp_path / "out", n_tokens=3000, cap_bytes=10**6)
    assert few.has_all_of({"n_tokens": 3000, "cap_bytes": 10**6})
    assert few.has_all_of({"n_tokens": None, "cap_bytes": 5000})
    assert not few.has_all_of({"n_tokens": None, "cap_bytes": 10**6})
    assert make(source, tmp_path / "out", cap_bytes=10**6).state == "exhausted"
    capped = make(source, tmp_path / "capped", n_tokens=10**6, cap_bytes=9000)
    assert capped.has_all_of({"n_tokens": None, "cap_bytes": 9000})
    assert not capped.has_all_of({"n_tokens": None, "cap_bytes": 9500})


def test_what_is_within_a_cap_is_the_same_whatever_else_comes(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    seen = []

    def look(n_done: int, n_total: int | None) -> None:
        seen.append(DocumentShards.open(folder).within(9000))

    some = make(source, folder, cap_bytes=9000)
    assert some.within(9000).is_complete
    whole = make(source, folder, progress=look)
    assert len(whole.pairs) > len(some.pairs) + 1
    for view in (*seen, whole.within(9000)):
        assert (view.pairs, view.is_complete) == (some.pairs, True) or view.state == "growing"
    assert whole.within(9000).is_complete
    assert not some.within(10_000).is_complete
    assert whole.within(None) == whole.replace(limits={"n_tokens": None, "cap_bytes": None})
    with pytest.raises(ValueError, match=r"cap_bytes is 4000, and the first pair of shards in .* has \d+: give that much"):
        whole.within(4000)


@pytest.mark.parametrize("cap_bytes", [4000, 9000, 13_000, 14_000])
def test_a_cap_is_kept(source: Path, tmp_path: Path, cap_bytes: int) -> None:
    shards = make(source, tmp_path / "out", cap_bytes=cap_bytes)
    size = sum(path.stat().st_size for path in (tmp_path / "out").glob("*.bin"))
    assert cap_bytes - 500 < size <= cap_bytes  # the next document, and the headers of another pair, do not fit
    assert shards.state == "reached"
    for number, pair in enumerate(shards_of(TEXTS)[: len(shards.pairs)]):
        ids = shards.read("train", number).tolist()
        assert ids == pair["train"][: len(ids)]


def test_a_cap_too_small_for_anything(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cap_bytes is 2000; two shards with hardly anything in them take 3072: give more"):
        make(source, tmp_path / "out", cap_bytes=2000)
    (tmp_path / "long.txt").write_text("long " * 10_000)
    with pytest.raises(ValueError, match=r"long.txt begins with a document that alone is more than the cap"):
        make(tmp_path / "long.txt", tmp_path / "out", cap_bytes=4000)


def test_lost_and_cut_shards_are_said_and_made_again(source: Path, tmp_path: Path) -> None:
    shards = make(source, tmp_path / "out")
    whole, path = hashes(tmp_path / "out"), shard_path(tmp_path / "out", "train", 2)
    content = path.read_bytes()
    path.write_bytes(content[:-3])
    with pytest.raises(ValueError, match=r"train-000002.bin should hold .* it was cut short; make it again"):
        shards.read("train", 2)
    assert list(shards.verify()) == [f"{path} is not as it was written"]
    make(source, tmp_path / "out")
    assert hashes(tmp_path / "out") == whole
    path.unlink()
    with pytest.raises(ValueError, match=r"train-000002.bin is missing: .*make the shards again with the same arguments"):
        shards.read("train", 2)
    make(source, tmp_path / "out")
    assert hashes(tmp_path / "out") == whole


def test_a_shard_of_another_tokenizer_is_refused(source: Path, tmp_path: Path) -> None:
    shards, other = make(source, tmp_path / "out"), make(source, tmp_path / "other", small_tokenizer(d_vocab=310))
    for end in ("", ".json"):
        name = f"train-000001.bin{end}"
        (tmp_path / "out" / name).write_bytes((tmp_path / "other" / name).read_bytes())
    with pytest.raises(ValueError, match=r"train-000001.bin was encoded by another tokenizer than the other shards"):
        shards.read("train", 1)
    assert other.read("train", 1).size


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer": small_tokenizer(d_vocab=310)}, r"a byte_pair tokenizer of 300 ids .*, not a byte_pair tokenizer of 310 ids"),
        ({"validation_fraction": 0.1}, "a validation_fraction of 0.25, not a validation_fraction of 0.1"),
        ({"shard_tokens": 2000}, "1,000 tokens a shard, not 2,000 tokens a shard"),
        ({"source": "0.parquet"}, r"source \(2 file\(s\) of .*\), not .*0.parquet \(1 file\(s\) of"),
    ],
)
def test_a_folder_begun_with_something_else(source: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    make(source, tmp_path / "out")
    before = hashes(tmp_path / "out")
    with pytest.raises(ValueError, match=rf"were begun with .*{said}.*: give the same to go on, or a folder of its own"):
        make(source / changes.pop("source", ""), tmp_path / "out", **changes)
    assert hashes(tmp_path / "out") == before


def test_what_failed_before_its_first_pair_may_be_begun_anew_with_anything(source: Path, tmp_path: Path) -> None:
    table = pq.read_table(source / "1.parquet").rename_columns({"text": "content"})
    pq.write_table(table, tmp_path / "wrong.parquet")
    with pytest.raises(ValueError, match=r"wrong.parquet has no column 'text'"):
        make(tmp_path / "wrong.parquet", tmp_path / "out")
    make(source, tmp_path / "out", shard_tokens=2000)
    make(source, tmp_path / "whole", shard_tokens=2000)
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


def test_a_file_that_has_changed_is_not_gone_on_with(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out", n_tokens=1500)
    file = source / "0.parquet"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"0.parquet has changed since the shards in .* were begun: bring it back"):
        make(source, tmp_path / "out", n_tokens=9000)


def test_nor_is_one_that_shards_before_were_made_of_and_are_made_of_again(source: Path, tmp_path: Path) -> None:
    shards = make(source, tmp_path / "out")
    assert shards.next.file == 2
    shard_path(tmp_path / "out", "train", 1).unlink()  # from the first file
    file = source / "1.parquet"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"1.parquet has changed since the shards in"):
        make(source, tmp_path / "out")


def test_no_shard_of_a_longer_making_stays(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    shard_path(tmp_path / "out", "train", 2).unlink()
    shards = make(source, tmp_path / "out", n_tokens=3500)
    assert len(shards.pairs) == 3
    assert sorted(path.name for path in (tmp_path / "out").glob("*.bin")) == sorted(
        shard_path(tmp_path, side, number).name for side in SIDES for number in range(3)
    )


def test_a_manifest_that_was_changed(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"state": "exhausted"', '"state": "growing"'))
    with pytest.raises(ValueError, match=r"manifest.json describes no token shards: it was changed or damaged"):
        DocumentShards.open(tmp_path / "out")
    with pytest.raises(ValueError, match=r"holds no manifest.json, so it is no folder of token shards: `cutaway download"):
        DocumentShards.open(source)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer": CharTokenizer.fit("abc")}, r"the char tokenizer has no <\|endoftext\|>, which separates documents"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"shard_tokens": 0}, "shard_tokens is 0"),
        ({"n_tokens": 0}, "n_tokens is 0"),
    ],
)
def test_mistakes_leave_nothing(source: Path, tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(source, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_documents_without_any_text(tmp_path: Path) -> None:
    write_parquet(tmp_path / "source" / "0.parquet", ["", None, " "])
    with pytest.raises(ValueError, match="source holds no text: nothing was written"):
        make(tmp_path / "source", tmp_path / "out")


def test_a_folder_with_other_things(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"out holds other things \(thesis.tex\)"):
        make(source, tmp_path / "out")


def test_a_document_that_cannot_be_encoded_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n{"text": "\\ud800 bad"}\n')
    with pytest.raises(ValueError, match=r"row 1 of .*a.jsonl cannot be encoded: the text has a lone surrogate"):
        make(tmp_path / "a.jsonl", tmp_path / "out")


def test_a_disk_that_takes_no_more(source: Path, tmp_path: Path) -> None:
    whole = make(source, tmp_path / "whole")
    largest = shard_path(tmp_path / "whole", "train", 0).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 10, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            make(source, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    failed = Path(str(caught.value.filename))
    assert failed in [shard_path(tmp_path / "out", "train", number) for number in range(len(whole.pairs))] + [
        tmp_path / "out" / "tokenizer.json"
    ]
    notes = getattr(caught.value, "__notes__", [])
    assert notes == ([f"the pairs of shards before {failed.name} are whole, to be gone on with"] if failed.name[-5] > "0" else [])
    make(source, tmp_path / "out")
    assert hashes(tmp_path / "out") == hashes(tmp_path / "whole")


def test_the_tokenizer_lies_beside_them(source: Path, tmp_path: Path) -> None:
    make(source, tmp_path / "out")
    assert load_tokenizer(tmp_path / "out" / "tokenizer.json").encode("rivers") == TOKENIZER.encode("rivers")

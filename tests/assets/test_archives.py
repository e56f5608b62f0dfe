import io
import stat
import zipfile

import pytest

from cutaway.assets.sources import SourceError
from cutaway.assets.sources.archives import read_tar_members, stream_zip_member


def zip_file(path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content, mode in members:
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, content)
    return path


def tar_file(path, content):
    path.write_bytes(content)
    return path


REGULAR = stat.S_IFREG | 0o644


def test_streams_one_member_and_nothing_else(tmp_path):
    archive = zip_file(tmp_path / "a.zip", ("data/x", b"hello", REGULAR), ("../../evil", b"bad", REGULAR))
    (tmp_path / "out").mkdir()
    stream_zip_member(archive, "data/x", target=tmp_path / "out" / "x", size=5)
    assert (tmp_path / "out" / "x").read_bytes() == b"hello"
    assert {path.name for path in tmp_path.rglob("*")} == {"a.zip", "out", "x"}


@pytest.mark.parametrize("escaping", ["../../evil", "/tmp/evil-of-cutaway"])
def test_a_members_own_path_is_never_used(tmp_path, escaping):
    archive = zip_file(tmp_path / "a.zip", (escaping, b"hello", REGULAR))
    (tmp_path / "out").mkdir()
    stream_zip_member(archive, escaping, target=tmp_path / "out" / "x", size=5)
    assert {path.name for path in tmp_path.rglob("*")} == {"a.zip", "out", "x"}
    assert not (tmp_path / "out" / escaping).exists()


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([("data/y", b"hello", REGULAR)], "0 members named data/x"),
        ([("data/x", b"/etc/passwd"[:5], stat.S_IFLNK | 0o777)], "not a regular file"),
        ([("data/x", b"hello!", REGULAR)], "has 6 bytes, not 5"),
        ([("data/x", b"hell", REGULAR)], "has 4 bytes, not 5"),
    ],
)
def test_refuses_zip_members_that_are_not_the_one_expected(tmp_path, members, why):
    archive = zip_file(tmp_path / "a.zip", *members)
    with pytest.raises(SourceError, match=why):
        stream_zip_member(archive, "data/x", target=tmp_path / "x", size=5)
    assert not (tmp_path / "x").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_refuses_a_zip_with_two_members_of_the_name(tmp_path):
    archive = zip_file(tmp_path / "a.zip", ("data/x", b"hello", REGULAR), ("data/x", b"world", REGULAR))
    with pytest.raises(SourceError, match="2 members named data/x"):
        stream_zip_member(archive, "data/x", target=tmp_path / "x", size=5)


def test_a_zip_that_lies_about_a_size_is_stopped_at_it(tmp_path):
    content = b"x" * 1_000_000
    archive = zip_file(tmp_path / "bomb.zip", ("data/x", content, REGULAR))
    with zipfile.ZipFile(archive) as opened:
        directory = opened.start_dir
    raw = bytearray(archive.read_bytes())
    raw[directory + 24 : directory + 28] = (5).to_bytes(4, "little")  # the unpacked size in the central directory
    archive.write_bytes(raw)
    with pytest.raises(SourceError, match=r"unpacks to more|not a readable archive"):
        stream_zip_member(archive, "data/x", target=tmp_path / "x", size=5)
    assert not (tmp_path / "x").exists() or (tmp_path / "x").stat().st_size <= 5


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04 cut off"])
def test_what_is_no_archive_is_refused_in_words(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(SourceError, match="not a readable archive"):
        stream_zip_member(tmp_path / "a", "x", target=tmp_path / "x", size=5)
    with pytest.raises(SourceError, match="not a readable archive"):
        read_tar_members(tmp_path / "a", {"x": 5})


def test_a_cut_tar_is_refused(tmp_path, make_tar):
    whole = make_tar([("p/x", bytes(range(256)) * 1000)])
    archive = tar_file(tmp_path / "a.tar.gz", whole[: len(whole) // 2])
    with pytest.raises(SourceError, match="not a readable archive"):
        read_tar_members(archive, {"p/x": 256_000})


def test_reads_tar_members_in_the_order_asked(tmp_path, make_tar):
    archive = tar_file(tmp_path / "a.tar.gz", make_tar([("p/a", b"1"), ("../evil", b"bad"), ("p/b", b"22")]))
    assert list(read_tar_members(archive, {"p/b": 2, "p/a": 1}).items()) == [("p/b", b"22"), ("p/a", b"1")]
    assert {path.name for path in tmp_path.rglob("*")} == {"a.tar.gz"}


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ([("p/y", b"hello")], "does not hold p/x"),
        ([("p/x", "/etc/passwd")], "not a regular file"),
        ([("p/x", b"hello!")], "has 6 bytes, not 5"),
        ([("p/x", b"hello"), ("p/x", b"world")], "more than once"),
    ],
)
def test_refuses_tar_members_that_are_not_the_ones_expected(tmp_path, make_tar, members, why):
    archive = tar_file(tmp_path / "a.tar.gz", make_tar(members))
    with pytest.raises(SourceError, match=why):
        read_tar_members(archive, {"p/x": 5})


def test_refuses_a_hard_link(tmp_path):
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("p/x")
        info.type, info.linkname = tarfile.LNKTYPE, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(SourceError, match="not a regular file"):
        read_tar_members(tar_file(tmp_path / "a.tar.gz", buffer.getvalue()), {"p/x": 0})

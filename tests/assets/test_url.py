import random
import time

import pytest

from cutaway.assets.sources import SourceError, Url
from cutaway.assets.sources.url import probe

CONTENT = random.Random(0).randbytes(1_000_000)


@pytest.fixture
def served(site):
    site.files["/file"] = CONTENT
    return site


@pytest.fixture
def part(tmp_path):
    return tmp_path / "file.bin.part"


def test_downloads_the_file_and_reports_its_bytes(served, part, request_for):
    heard = []
    Url(f"{served.address}/file").write(part, request_for(CONTENT, report=lambda *progress: heard.append(progress)))
    assert part.read_bytes() == CONTENT
    assert heard[-1] == (len(CONTENT), len(CONTENT), "file.bin")
    assert [n_done for n_done, _, _ in heard] == sorted(n_done for n_done, _, _ in heard)


def test_goes_on_where_an_earlier_download_stopped(served, part, request_for):
    part.write_bytes(CONTENT[:300_000])
    Url(f"{served.address}/file").write(part, request_for(CONTENT))
    assert part.read_bytes() == CONTENT
    assert served.gets("/file") == ["bytes=300000-"]


def test_takes_up_a_connection_that_breaks(served, part, request_for):
    served.breaks_after = [400_000, 100_000, 100_000, 100_000, 100_000, 100_000]
    Url(f"{served.address}/file").write(part, request_for(CONTENT))
    assert part.read_bytes() == CONTENT
    assert len(served.gets("/file")) == 7


def test_a_connection_that_breaks_before_the_first_bytes_leaves_nothing(served, part, request_for):
    served.breaks_after = [0]
    with pytest.raises(SourceError, match=r"^the connection broke$"):
        Url(f"{served.address}/file").write(part, request_for(CONTENT))
    assert not part.exists()


def test_keeps_what_came_when_the_connection_stays_broken(served, part, request_for):
    served.breaks_after = [250_000, 0, 0]
    with pytest.raises(SourceError, match=r"the connection broke, after [1-9][\d,]+ of 1,000,000 bytes"):
        Url(f"{served.address}/file").write(part, request_for(CONTENT))
    n_kept = part.stat().st_size
    assert part.read_bytes() == CONTENT[:n_kept] != b""
    served.breaks_after = []
    Url(f"{served.address}/file").write(part, request_for(CONTENT))
    assert part.read_bytes() == CONTENT
    assert served.gets("/file")[-1] == f"bytes={n_kept}-"


def test_starts_again_where_the_server_knows_no_ranges(served, part, request_for):
    served.knows_ranges = False
    part.write_bytes(CONTENT[:300_000])
    Url(f"{served.address}/file").write(part, request_for(CONTENT))
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("old", [b"x" * 300_000, b"x" * len(CONTENT), b"x" * 2_000_000])
def test_replaces_an_old_part_of_another_file(served, part, request_for, old):
    part.write_bytes(old)
    Url(f"{served.address}/file").write(part, request_for(CONTENT))
    assert part.read_bytes() == CONTENT


def test_a_hash_mismatch_leaves_nothing(served, part, request_for):
    served.files["/file"] = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])
    with pytest.raises(SourceError, match=r"its sha256 is .* not "):
        Url(f"{served.address}/file").write(part, request_for(CONTENT))
    assert not part.exists()


def test_refuses_a_longer_file_and_leaves_nothing(served, part, request_for):
    served.files["/file"] = CONTENT + b"more"
    with pytest.raises(SourceError, match="more than the 1,000,000 bytes expected"):
        Url(f"{served.address}/file").write(part, request_for(CONTENT))
    assert not part.exists()


def test_refuses_a_shorter_file(served, part, request_for):
    served.files["/file"] = CONTENT[:10]
    with pytest.raises(SourceError, match="shorter"):
        Url(f"{served.address}/file").write(part, request_for(CONTENT))
    assert not part.exists()


def test_says_in_one_line_what_the_server_answered(site, part, request_for):
    with pytest.raises(SourceError, match=r"^HTTP 404 Not Found$"):
        Url(f"{site.address}/absent").write(part, request_for(CONTENT))
    assert not part.exists()


def test_a_dead_address_fails_at_once(dead_address, part, request_for):
    begun = time.monotonic()
    with pytest.raises(SourceError, match=r"^no connection \(.*refused\)$"):
        Url(dead_address).write(part, request_for(CONTENT))
    assert time.monotonic() - begun < 5


def test_a_name_without_address_fails_in_words(part, request_for):
    with pytest.raises(SourceError, match="host name cannot be resolved"):
        Url("http://nowhere.invalid/file").write(part, request_for(CONTENT))


def test_asks_for_nothing_without_a_hash_to_check(served, part, request_for):
    with pytest.raises(SourceError, match="no size and sha256"):
        Url(f"{served.address}/file").write(part, request_for(CONTENT, sha256=None))
    assert served.asked == []


def test_probe_takes_any_answer_of_a_host_and_reports_a_dead_one(site, dead_address):
    probe(f"{site.address}/whatever")
    with pytest.raises(SourceError, match="no connection"):
        probe(f"{dead_address}/whatever")

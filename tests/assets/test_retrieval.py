import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cutaway import assets
from cutaway.assets import AssetError, File
from cutaway.assets.sources import Provenance, Source, SourceError, Url
from kill_repeatedly import kill_repeatedly

CONTENT = b"all that glisters is not gold\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def text_file(*sources, content=CONTENT):
    return File("text.txt", sources, n_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


@pytest.fixture
def thing(site, catalogued):
    """An asset of one file at a local URL."""
    site.files["/text.txt"] = CONTENT
    catalogued(text_file(Url(f"{site.address}/text.txt")))
    return site


class Made(Source):
    """A source that makes its file, or fails as told."""

    def __init__(self, content=CONTENT, *, version="maker 1", error=None):
        self.content, self.version, self.error = content, version, error

    def __str__(self):
        return "maker"

    @property
    def converter(self):
        return self.version

    def write(self, target, request):
        target.write_bytes(self.content)
        if self.error is not None:
            raise self.error
        return Provenance(source=str(self), converter=self.version)


def left_in(cache):
    return {path.name for path in (cache / "assets" / "thing").iterdir()}


def test_fetches_once_and_then_finds_without_a_network(thing, cache):
    assert assets.locate("thing") is None
    heard = []
    path = assets.fetch("thing", report=lambda *progress: heard.append(progress))["text.txt"]
    assert path == cache / "assets" / "thing" / "text.txt"
    assert path.read_bytes() == CONTENT
    assert heard[-1] == (len(CONTENT), len(CONTENT), "text.txt")
    assert left_in(cache) == {"text.txt", "manifest.json", ".lock"}
    thing.files.clear()
    assert assets.locate("thing") == assets.fetch("thing") == {"text.txt": path}
    assert len(thing.gets("/text.txt")) == 1


def test_the_manifest_says_what_each_file_is(thing, cache):
    path = assets.fetch("thing")["text.txt"]
    record = json.loads((cache / "assets" / "thing" / "manifest.json").read_text())["files"]["text.txt"]
    assert record["sha256"] == SHA256
    assert (record["size"], record["mtime_ns"]) == (len(CONTENT), path.stat().st_mtime_ns)
    assert record["provenance"]["source"] == f"URL {thing.address}/text.txt"


@pytest.mark.parametrize("damaged", [b"", CONTENT[:-1], CONTENT + b"more", CONTENT[::-1]])
def test_a_damaged_file_is_noticed_and_fetched_again(thing, damaged):
    path = assets.fetch("thing")["text.txt"]
    path.write_bytes(damaged)
    assert assets.locate("thing") is None
    assert assets.fetch("thing")["text.txt"].read_bytes() == CONTENT


def test_verify_finds_damage_that_kept_size_and_time(thing):
    path = assets.fetch("thing")["text.txt"]
    assert assets.verify("thing") == []
    stat = path.stat()
    path.write_bytes(CONTENT[::-1])
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert assets.locate("thing") is not None  # size and time are all that is looked at
    assert assets.verify("thing") == ["thing: text.txt is not as it was fetched"]
    assert assets.fetch("thing")["text.txt"].read_bytes() == CONTENT
    assert assets.verify("thing") == []


def test_verify_reports_what_was_never_fetched(thing):
    assert assets.verify("thing") == ["thing: text.txt is not in the cache"]
    assert thing.asked == []


def test_a_whole_file_put_there_by_hand_is_taken_up(thing, cache):
    path = cache / "assets" / "thing" / "text.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    assert assets.locate("thing") == {"text.txt": path}
    (path.parent / "manifest.json").write_text("not JSON")
    assert assets.fetch("thing") == {"text.txt": path}
    assert thing.asked == []


def test_a_touched_file_is_read_once_more_and_not_fetched(thing):
    path = assets.fetch("thing")["text.txt"]
    os.utime(path, ns=(0, 0))
    assert assets.fetch("thing") == {"text.txt": path}
    assert len(thing.gets("/text.txt")) == 1


def test_sources_are_tried_in_order_and_all_named_when_none_gives(site, dead_address, catalogued, cache):
    catalogued(text_file(Url(f"{site.address}/absent"), Url(f"{dead_address}/text.txt"), Made(b"other")))
    with pytest.raises(AssetError) as caught:
        assets.fetch("thing")
    lines = str(caught.value).splitlines()
    assert lines[0] == "thing: text.txt could not be fetched"
    assert lines[1] == f"  URL {site.address}/absent: HTTP 404 Not Found"
    assert lines[2].startswith(f"  URL {dead_address}/text.txt: no connection (")
    assert lines[3].startswith("  maker: its sha256 is ")
    assert len(lines) == 4
    assert left_in(cache) == {".lock"}


def test_a_later_source_gives_what_an_earlier_one_did_not(site, catalogued):
    site.files["/wrong"] = CONTENT[::-1]
    catalogued(text_file(Url(f"{site.address}/absent"), Url(f"{site.address}/wrong"), Made()))
    assert assets.fetch("thing")["text.txt"].read_bytes() == CONTENT


def test_another_version_of_a_converter_makes_the_file_again(catalogued):
    catalogued(File("text.txt", (Made(b"old", version="maker 1"),)))
    assert assets.fetch("thing")["text.txt"].read_bytes() == b"old"
    catalogued(File("text.txt", (Made(b"new", version="maker 2"),)))
    assert assets.locate("thing") is None
    assert assets.fetch("thing")["text.txt"].read_bytes() == b"new"


def test_an_unknown_name_is_answered_with_the_nearest():
    for ask in (assets.fetch, assets.locate, assets.verify):
        with pytest.raises(ValueError, match="'shakespear' is no asset; did you mean 'shakespeare'"):
            ask("shakespear")


def test_a_full_disk_is_one_sentence_and_leaves_nothing(catalogued, cache):
    catalogued(text_file(Made(error=OSError(errno.ENOSPC, "No space left on device"))))
    with pytest.raises(AssetError, match=r"^the disk that holds .* is full: thing needs 30,000 bytes; free") as caught:
        assets.fetch("thing")
    assert "\n" not in str(caught.value)
    assert left_in(cache) == {".lock"}


def test_a_write_that_the_system_stops_is_one_sentence_and_leaves_nothing(thing, cache):
    script = f"""
import resource
from cutaway import assets
from cutaway.assets import Asset, File
from cutaway.assets.sources import Url
file = File("text.txt", (Url({thing.address + "/text.txt"!r}),), n_bytes={len(CONTENT)}, sha256={SHA256!r})
assets.CATALOGUE["thing"] = Asset("thing", "corpus", about="", licence="", files=(file,))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    assets.fetch("thing")
except assets.AssetError as error:
    print(error)
"""
    said = run_python(script).communicate(timeout=60)[0]
    assert said.count("\n") == 1
    assert "cannot be used (File too large): set CUTAWAY_CACHE" in said
    assert left_in(cache) == {".lock"}


def test_a_cache_that_cannot_be_written_is_one_sentence(thing, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "file"))
    with pytest.raises(AssetError, match=r"the cache folder .* cannot be used .*: set CUTAWAY_CACHE to a folder") as caught:
        assets.fetch("thing")
    assert "\n" not in str(caught.value)


def test_a_crash_leaves_nothing_that_counts(catalogued, cache):
    catalogued(text_file(Made(CONTENT[:100], error=KeyboardInterrupt())))
    with pytest.raises(KeyboardInterrupt):
        assets.fetch("thing")
    assert assets.locate("thing") is None
    catalogued(text_file(Made()))
    (cache / "assets" / "thing" / ".work").mkdir(exist_ok=True)
    (cache / "assets" / "thing" / ".work" / "left").write_text("by a crash")
    assert assets.fetch("thing")["text.txt"].read_bytes() == CONTENT
    assert left_in(cache) == {"text.txt", "manifest.json", ".lock"}


def test_a_source_error_leaves_no_work(catalogued, cache):
    catalogued(text_file(Made(error=SourceError("no"))))
    with pytest.raises(AssetError, match="maker: no"):
        assets.fetch("thing")
    assert ".work" not in left_in(cache)
    assert assets.locate("thing") is None


def run_python(script):
    source_folder = str(Path(assets.__file__).parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([source_folder, os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)


def test_two_processes_download_once(thing):
    thing.delay_s = 0.5  # both have asked before the first is served
    script = f"""
from cutaway import assets
from cutaway.assets import Asset, File
from cutaway.assets.sources import Url
file = File("text.txt", (Url({thing.address + "/text.txt"!r}),), n_bytes={len(CONTENT)}, sha256={SHA256!r})
assets.CATALOGUE["thing"] = Asset("thing", "corpus", about="", licence="", files=(file,))
print(assets.fetch("thing")["text.txt"].stat().st_size)
"""
    processes = [run_python(script) for _ in range(2)]
    begun = time.monotonic()
    assert [process.communicate(timeout=60)[0] for process in processes] == [f"{len(CONTENT)}\n"] * 2
    assert time.monotonic() - begun < 30
    assert len(thing.gets("/text.txt")) == 1


def test_status_has_a_row_for_every_asset_and_asks_nobody(thing):
    row = next(row for row in assets.status() if row.name == "thing")
    assert (row.is_present, row.where, row.n_bytes) == (False, f"URL {thing.address}/text.txt", len(CONTENT))
    (file,) = row.files
    address = f"{thing.address}/text.txt"
    assert (file.name, file.n_bytes, file.sha256, file.sources) == ("text.txt", len(CONTENT), SHA256, (f"URL {address}",))
    assert thing.asked == []
    folder = assets.fetch("thing")["text.txt"].parent
    row = next(row for row in assets.status() if row.name == "thing")
    assert (row.is_present, row.where, row.kind, row.licence, row.memory_bytes) == (True, str(folder), "corpus", "none", None)
    assert next(row for row in assets.status() if row.name == "gpt2").memory_bytes == 497_759_232
    assert [row.name for row in assets.status()] == list(assets.CATALOGUE)


def test_the_cache_folder_is_the_one_chosen_or_the_platforms(tmp_path, monkeypatch):
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "chosen"))
    assert assets.cache_dir() == tmp_path / "chosen"
    monkeypatch.setenv("CUTAWAY_CACHE", "~/chosen")
    assert assets.cache_dir() == Path.home() / "chosen"
    monkeypatch.setenv("CUTAWAY_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert assets.cache_dir() == tmp_path / "xdg" / "cutaway"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert assets.cache_dir() == Path.home() / "Library" / "Caches" / "cutaway"


@pytest.mark.parametrize("n_kills", [4, pytest.param(10, marks=pytest.mark.slow)])
def test_killed_anywhere_a_download_goes_on_to_the_same_file(site, tmp_path, capsys, n_kills):
    site.files["/text.txt"] = content = random.Random(3).randbytes(4_000_000)
    sha256 = hashlib.sha256(content).hexdigest()
    site.pause_s = 0.003
    n_bytes = kill_repeatedly("fetch", tmp_path, n_kills, f"{site.address}/text.txt", len(content), sha256)
    with capsys.disabled():
        print(f"\n{n_kills} kills of a download of {len(content):,} bytes; bytes in the cache then: {', '.join(map(str, n_bytes))}")
    files = {folder: tmp_path / folder / "assets" / "thing" for folder in ("whole", "killed")}
    for folder in files.values():
        assert (folder / "text.txt").read_bytes() == content
        assert {path.name for path in folder.iterdir()} == {"text.txt", "manifest.json", ".lock"}
    begun = [asked for asked in site.gets("/text.txt") if asked]
    assert begun, "no life went on where another had stopped"
    assert all(0 < int(asked.removeprefix("bytes=").rstrip("-")) < len(content) for asked in begun)

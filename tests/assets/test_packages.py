"""Wheels through pip and source archives as data, from an index on this machine."""

import os
import random
import shutil

import pytest

from cutaway.assets.sources import Package, Registry, SdistMembers, SourceError, WheelMember
from cutaway.assets.sources.registry import pip_environment

DATA = b"the member's bytes\n" * 1000


@pytest.fixture
def wheel(index, make_wheel):
    content = make_wheel("thing", {"thing/data/x.txt": DATA, "thing/data/y.txt": DATA[::-1]})
    return index.add_package("thing-1.0-py3-none-any.whl", content, project="thing")


def make_sdist(make_tar, ran):
    return make_tar(
        [
            ("thing-1.0/setup.py", f"open({str(ran)!r}, 'w')".encode()),
            ("thing-1.0/b.txt", b"second"),
            ("thing-1.0/a.txt", b"first"),
        ]
    )


@pytest.fixture
def sdist(index, make_tar, tmp_path):
    return index.add_package("thing-1.0.tar.gz", make_sdist(make_tar, tmp_path / "ran"), project="thing")


def members_of(package):
    members = (("thing-1.0/a.txt", 5), ("thing-1.0/b.txt", 6))
    return SdistMembers(package, members, b" ".join, version="joiner 1")


def test_two_members_of_a_wheel_cost_one_download(index, wheel, tmp_path, request_for):
    heard = []
    request = request_for(DATA, report=lambda *progress: heard.append(progress))
    provenance = WheelMember(wheel, "thing/data/x.txt").write(tmp_path / "x", request)
    WheelMember(wheel, "thing/data/y.txt").write(tmp_path / "y", request)
    assert (tmp_path / "x").read_bytes() == DATA
    assert (tmp_path / "y").read_bytes() == DATA[::-1]
    assert len(index.gets("/files/thing-1.0-py3-none-any.whl")) == 1
    assert heard[-1] == (wheel.n_bytes, wheel.n_bytes, "thing==1.0")
    assert (provenance.source, provenance.archive_sha256) == ("wheel thing==1.0", wheel.sha256)


def test_settings_that_would_move_the_wheel_do_not_reach_pip(wheel, tmp_path, request_for, monkeypatch):
    (tmp_path / "constraints.txt").write_text("thing==2.0\n")
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_CONSTRAINT", str(tmp_path / "constraints.txt"))
    assert not {"PIP_TARGET", "PIP_USER", "PIP_CONSTRAINT"} & pip_environment().keys()
    assert pip_environment()["PIP_CONFIG_FILE"] == os.environ["PIP_CONFIG_FILE"]
    WheelMember(wheel, "thing/data/x.txt").write(tmp_path / "x", request_for(DATA))
    assert (tmp_path / "x").read_bytes() == DATA


def test_a_wheel_that_changed_is_refused(index, wheel, make_wheel, tmp_path, request_for):
    index.add_package("thing-1.0-py3-none-any.whl", make_wheel("thing", {"thing/data/x.txt": b"other"}), project="thing")
    with pytest.raises(SourceError, match="not the one recorded: its sha256 differs"):
        WheelMember(wheel, "thing/data/x.txt").write(tmp_path / "x", request_for(DATA))
    assert not (tmp_path / "x").exists()


def test_a_member_that_is_not_there_leaves_nothing(wheel, tmp_path, request_for):
    with pytest.raises(SourceError, match="0 members named thing/absent"):
        WheelMember(wheel, "thing/absent").write(tmp_path / "x", request_for(DATA))
    assert not (tmp_path / "x").exists()


def test_pip_never_gets_a_source_archive(index, sdist, tmp_path, request_for):
    with pytest.raises(SourceError, match=r"No matching distribution found for thing==1\.0"):
        WheelMember(sdist, "thing/data/x.txt").write(tmp_path / "x", request_for(DATA))
    assert index.gets("/files/thing-1.0.tar.gz") == []


def test_a_registry_that_does_not_answer_is_named_as_such(dead_address, tmp_path, request_for, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", f"{dead_address}/simple/")
    package = Package("thing", "1.0", "0" * 64, n_bytes=10)
    with pytest.raises(SourceError, match="the package registry does not answer"):
        WheelMember(package, "x").write(tmp_path / "x", request_for(DATA))
    with pytest.raises(SourceError, match=r"no connection \(.*refused\)"):
        members_of(package).write(tmp_path / "x", request_for(DATA))


def test_a_source_archive_is_read_and_its_code_never_run(sdist, tmp_path, request_for):
    provenance = members_of(sdist).write(tmp_path / "x", request_for(b"first second"))
    assert (tmp_path / "x").read_bytes() == b"first second"
    assert not (tmp_path / "ran").exists()
    assert (provenance.archive_sha256, provenance.converter) == (sdist.sha256, "joiner 1")


def test_a_source_archive_goes_on_where_it_stopped(index, make_tar, tmp_path, request_for):
    """In another fetch, whose folder to work in is a new one."""
    rest = ("thing-1.0/rest.bin", random.Random(0).randbytes(500_000))
    content = make_tar([("thing-1.0/b.txt", b"second"), ("thing-1.0/a.txt", b"first"), rest])
    source = members_of(index.add_package("thing-1.0.tar.gz", content, project="thing"))
    index.breaks_after = [10**6, 200_000, 0, 0]  # of the index page, and of the archive three times
    with pytest.raises(SourceError, match=r"the connection broke, after [1-9]"):
        source.write(tmp_path / "x", request_for(b"first second"))
    (part,) = tmp_path.glob("*.part")
    n_kept = part.stat().st_size
    shutil.rmtree(tmp_path / "work")
    index.breaks_after = []
    source.write(tmp_path / "x", request_for(b"first second"))
    assert (tmp_path / "x").read_bytes() == b"first second"
    assert index.gets("/files/thing-1.0.tar.gz")[-1] == f"bytes={n_kept}-"
    assert not part.exists()


def test_a_source_archive_that_changed_is_refused(index, sdist, make_tar, tmp_path, request_for):
    index.files["/files/thing-1.0.tar.gz"] = make_sdist(make_tar, tmp_path / "ru2")[: sdist.n_bytes].ljust(sdist.n_bytes, b"\0")
    with pytest.raises(SourceError, match="its sha256 is"):
        members_of(sdist).write(tmp_path / "x", request_for(b"first second"))
    assert not (tmp_path / "x").exists()


def test_an_index_in_a_folder_serves_source_archives_too(make_tar, tmp_path, request_for, monkeypatch, site):
    package = site.add_package("thing-1.0.tar.gz", make_sdist(make_tar, tmp_path / "ran"), project="thing")
    page = tmp_path / "mirror" / "simple" / "thing" / "index.html"
    page.parent.mkdir(parents=True)
    page.write_text('<a href="../../thing-1.0.tar.gz">thing-1.0.tar.gz</a>')
    (tmp_path / "mirror" / "thing-1.0.tar.gz").write_bytes(site.files["/files/thing-1.0.tar.gz"])
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", (tmp_path / "mirror" / "simple").as_uri())
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", "")
    members_of(package).write(tmp_path / "x", request_for(b"first second"))
    assert (tmp_path / "x").read_bytes() == b"first second"


def test_every_index_configured_is_asked(index, sdist, dead_address, tmp_path, request_for, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", f"{dead_address}/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"{index.address}/simple/ {dead_address}/other/")
    assert Registry.configured().indexes == (
        f"{dead_address}/simple",
        f"{index.address}/simple/",
        f"{dead_address}/other/",
    )
    members_of(sdist).write(tmp_path / "x", request_for(b"first second"))
    assert (tmp_path / "x").read_bytes() == b"first second"


def test_what_each_index_said_is_told_without_its_password(index, dead_address, monkeypatch):
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", dead_address.replace("//", "//user:secret@") + "/simple")
    with pytest.raises(SourceError, match=r"does not have it; .*no connection") as caught:
        Registry.configured().source_archive(Package("absent", "1.0", "0" * 64, n_bytes=1))
    assert "secret" not in str(caught.value)


def test_the_default_index_is_the_clients_own(monkeypatch):
    from pypi_simple import PYPI_SIMPLE_ENDPOINT

    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    assert Registry.configured().indexes == (PYPI_SIMPLE_ENDPOINT,)


def test_the_settings_of_download_and_the_environment_come_before_the_global_ones(tmp_path, monkeypatch):
    for name in ("PIP_INDEX_URL", "PIP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = http://a\nproxy = http://p\n[download]\nindex-url = http://b\n[install]\nindex-url = http://c\n"
    )
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert (Registry.configured().indexes[0], Registry.configured().proxy) == ("http://b", "http://p")
    monkeypatch.setenv("PIP_INDEX_URL", "http://d")
    assert Registry.configured().indexes[0] == "http://d"
    assert Registry.configured().session().proxies["https"] == "http://p"


def test_no_index_means_no_index(index, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(SourceError, match="no index"):
        Registry.configured()

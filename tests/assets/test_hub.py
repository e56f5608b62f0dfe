"""Hub files from a local imitation of the hub, which answers as its client expects."""

import hashlib
import json

import pytest

from cutaway import assets
from cutaway.assets import AssetError, File
from cutaway.assets.sources import HubFile, SourceError

OLD, NEW = "a" * 40, "b" * 40
CONTENT = b"weights " * 5000


class FakeHub:
    """A repository whose `main` can move."""

    def __init__(self, site):
        self.site = site

    def commit(self, commit, content, *, name="weights.bin", digest=None):
        """Add a file to a commit and move `main` to it."""
        digest = digest or hashlib.sha256(content).hexdigest()
        for revision in (commit, "main"):
            path = f"/owner/model/resolve/{revision}/{name}"
            self.site.files[path] = content
            self.site.headers[path] = {
                "X-Repo-Commit": commit,
                "ETag": f'"{digest}"',
                "X-Linked-Size": str(len(content)),
            }


@pytest.fixture
def fake_hub(site, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", site.address)
    template = site.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return FakeHub(site)


@pytest.fixture
def weights(fake_hub, catalogued):
    fake_hub.commit(OLD, CONTENT)
    catalogued(File("weights.bin", (HubFile("owner/model", "weights.bin"),)))
    return fake_hub


def manifest(cache):
    return json.loads((cache / "assets" / "thing" / "manifest.json").read_text())["files"]["weights.bin"]


def test_records_the_commit_and_hash_of_the_first_download(weights, cache):
    assert assets.fetch("thing")["weights.bin"].read_bytes() == CONTENT
    record = manifest(cache)
    assert record["provenance"]["repo"] == "owner/model"
    assert record["provenance"]["revision"] == OLD
    assert record["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert weights.site.gets(f"/owner/model/resolve/{OLD}/weights.bin") == [None]


def test_enforces_them_after_main_has_moved(weights, cache):
    path = assets.fetch("thing")["weights.bin"]
    weights.commit(NEW, CONTENT[::-1])
    path.write_bytes(b"damaged")
    assert assets.locate("thing") is None
    assert assets.fetch("thing")["weights.bin"].read_bytes() == CONTENT
    assert manifest(cache)["provenance"]["revision"] == OLD


def test_refuses_other_bytes_under_the_recorded_commit(weights, cache):
    path = assets.fetch("thing")["weights.bin"]
    path.unlink()
    weights.commit(OLD, CONTENT[::-1])
    with pytest.raises(AssetError, match="its sha256 is"):
        assets.fetch("thing")
    assert not path.exists()
    assert not list(path.parent.glob("*.part"))


def test_small_files_are_checked_by_gits_hash(fake_hub, catalogued):
    content = b"{}\n"
    # git hash-object of that file
    fake_hub.commit(OLD, content, digest="0967ef424bce6791893e9a57bb952f80fd536e93")
    catalogued(File("weights.bin", (HubFile("owner/model", "weights.bin"),)))
    assert assets.fetch("thing")["weights.bin"].read_bytes() == content


@pytest.mark.parametrize("digest", ["0" * 64, "0" * 40])
def test_refuses_what_does_not_have_the_hubs_hash(fake_hub, catalogued, digest):
    fake_hub.commit(OLD, CONTENT, digest=digest)
    catalogued(File("weights.bin", (HubFile("owner/model", "weights.bin"),)))
    with pytest.raises(AssetError, match=f"not {digest}"):
        assets.fetch("thing")
    assert assets.locate("thing") is None


def test_a_hub_that_does_not_answer_is_named_in_one_line(fake_hub, dead_address, tmp_path, request_for, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", dead_address + "/{repo_id}/{revision}/{filename}")
    with pytest.raises(SourceError, match="the hub did not name the file") as caught:
        HubFile("owner/model", "weights.bin").write(tmp_path / "x", request_for(CONTENT))
    assert "\n" not in str(caught.value)


def test_an_absent_file_is_named_in_one_line(fake_hub, tmp_path, request_for):
    with pytest.raises(SourceError, match="404") as caught:
        HubFile("owner/model", "absent.bin").write(tmp_path / "x", request_for(CONTENT))
    assert "\n" not in str(caught.value)


SHARD = CONTENT * 10
MODEL = {"config.json": b"{}\n", "model-00001-of-00002.safetensors": SHARD, "model-00002-of-00002.safetensors": SHARD[::-1]}


def break_in_the_last_file(hub):
    """Let the connection break in the middle of the last file, and nothing more come."""
    hub.site.breaks_after += [len(MODEL["config.json"]), len(SHARD), len(SHARD) // 2, 0]
    with pytest.raises(AssetError, match=rf"00002-of-00002.* after [\d,]+ of {len(SHARD):,} bytes"):
        assets.fetch("thing")
    assert assets.locate("thing") is None
    hub.site.asked.clear()


@pytest.fixture
def model(fake_hub, catalogued):
    """A model in several files."""
    for name, content in MODEL.items():
        fake_hub.commit(OLD, content, name=name)
    catalogued(*(File(name, (HubFile("owner/model", name),)) for name in MODEL))
    return fake_hub


def test_the_files_of_a_model_lie_in_one_folder(model, cache):
    files = assets.fetch("thing")
    assert {name: path.read_bytes() for name, path in files.items()} == MODEL
    assert {path.parent for path in files.values()} == {cache / "assets" / "thing"}
    model.site.files.clear()
    assert assets.fetch("thing") == files
    assert assets.verify("thing") == []


def test_an_interrupted_model_goes_on_in_the_file_where_it_stopped(model):
    break_in_the_last_file(model)
    files = assets.fetch("thing")
    assert {name: path.read_bytes() for name, path in files.items()} == MODEL
    gets = {name: model.site.gets(f"/owner/model/resolve/{OLD}/{name}") for name in MODEL}
    first, second, (asked_range,) = gets.values()
    assert first == second == []
    assert len(SHARD) // 4 < int(asked_range.removeprefix("bytes=").rstrip("-")) <= len(SHARD) // 2


def test_a_model_is_of_one_commit_though_main_moves_between_two_files(model):
    for name, content in MODEL.items():
        model.commit(NEW, content[1:], name=name)
        model.commit(OLD, content, name=name)
    break_in_the_last_file(model)
    for name, content in MODEL.items():
        model.commit(NEW, content[1:], name=name)
    assert {name: path.read_bytes() for name, path in assets.fetch("thing").items()} == MODEL


def test_a_hub_without_an_address_is_asked_once_and_named(model, monkeypatch):
    from huggingface_hub import constants

    # RFC 6761: no name under .invalid is ever found
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://hub.invalid/{repo_id}/{revision}/{filename}")
    with pytest.raises(AssetError) as caught:
        assets.fetch("thing")
    assert str(caught.value) == (
        "thing: config.json could not be fetched\n"
        "  hub owner/model/config.json: the hub did not name the file (its host name cannot be resolved; is this machine offline?)"
    )

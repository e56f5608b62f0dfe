import pytest

from tiny_training import tiny_config, write_text


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, shared_cache, monkeypatch):
    """Every test has a folder of runs of its own; token arrays are known by the hash of their text, so all may share them."""
    monkeypatch.setenv("CUTAWAY_CACHE", str(shared_cache))
    monkeypatch.setenv("CUTAWAY_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def play(tmp_path):
    return write_text(tmp_path)


@pytest.fixture
def config(play):
    return tiny_config(play)

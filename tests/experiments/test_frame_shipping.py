"""Models that a reproduction trained are folders to load, may be shipped, and are held against ones trained anew."""

import json
from dataclasses import replace

import pytest
import torch

import cutaway
from cutaway.assets import shipped
from cutaway.experiments.frame import Scale, reproduce, ship, verify_shipped
from cutaway.experiments.toy_models import ToyModels
from cutaway.runtime import file_sha256
from toy_experiment import STOPPED, TOY, Config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    STOPPED.clear()
    path = tmp_path_factory.mktemp("toy") / "toy"
    reproduce(TOY, seeds=(0, 1), folder=path)
    return path


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose shipped models lie in a folder of the test's own."""
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "package")
    shipped.shipped_models.cache_clear()
    yield tmp_path / "package"
    shipped.shipped_models.cache_clear()


def test_what_was_trained_is_a_folder_to_load(folder):
    lm = cutaway.load(folder / "seed-1" / "toy-model")
    assert lm.tokens("a c").tolist() == [[0, 2]]
    again = reproduce(TOY, seeds=(1,)).outcomes[1].models["toy-model"]
    for name, weight in lm.model.named_parameters():
        torch.testing.assert_close(weight, dict(again.model.named_parameters())[name], rtol=0, atol=0)


def test_a_shipped_model_is_loaded_by_its_name(folder, package):
    ship(TOY, folder, "toy-model", package, seed=1, about="nothing", prompt="a b")
    lm = cutaway.load("toy-model")
    torch.testing.assert_close(lm.model.embed.W_E, cutaway.load(folder / "seed-1" / "toy-model").model.embed.W_E)
    card = shipped.shipped_card("toy-model")
    assert card["command"] == "cutaway reproduce toy --seed 1"
    assert card["settings"] == {"n_steps": 30, "bound": 0.5, "sizes": [1, 2]}
    assert card["metrics"].keys() == {"distance"}
    assert shipped.shipped_example("toy-model") == {"prompt": "a b"}
    assert shipped.shipped_example("other") == shipped.shipped_example(None) == {}
    with pytest.raises(FileNotFoundError, match="did you mean 'toy-model'"):
        cutaway.load("toy-mode")


def test_a_model_trained_anew_is_compared(folder, package, tmp_path):
    ship(TOY, folder, "toy-model", package, seed=1, about="nothing")
    found = verify_shipped("toy-model", TOY)
    assert found.passed
    assert found.is_same
    card = package / "toy-model" / "card.json"
    values = json.loads(card.read_text())
    card.write_text(json.dumps(values | {"metrics": {"distance": values["metrics"]["distance"] + 1}}))
    other = verify_shipped("toy-model", TOY)
    renamed = replace(found, retrained={"length": 0.0})
    assert (renamed.differing, renamed.missing, renamed.passed) == ([], ["distance"], False)
    assert "1 of the card's are no longer measured: ship it anew" in renamed.summary()
    assert renamed.table()[1][0][-1] == "missing"
    assert replace(found, shipped={"distance": 0.0}, retrained={"distance": 1e-9}).passed
    assert not replace(found, shipped={"distance": 0.0}, retrained={"distance": 1e-3}).passed
    assert not other.passed
    assert other.differing == ["distance"]
    assert "1 of 1 metrics are more than 10% apart" in other.summary()
    card.write_text(json.dumps(values | {"settings": {"n_steps": 31}}))
    with pytest.raises(ValueError, match="trained at other settings than toy has now"):
        verify_shipped("toy-model", TOY)


def test_only_what_passed_is_shipped(folder, package, tmp_path):
    with pytest.raises(ValueError, match="its seed 0 trained no such model"):
        ship(TOY, folder, "other", package, seed=0, about="nothing")
    failing = replace(TOY, scales={"small": Scale(config=Config(bound=-1.0))})
    reproduce(failing, folder=tmp_path / "failed")
    with pytest.raises(ValueError, match="its seed 0 did not pass"):
        ship(failing, tmp_path / "failed", "toy-model", package, seed=0, about="nothing")
    with pytest.raises(ValueError, match="is not of the small scale of toy"):
        ship(TOY, tmp_path / "failed", "toy-model", package, seed=0, about="nothing")
    file = tmp_path / "failed" / "seed-0" / "result.json"
    record = json.loads(file.read_text())
    record["trainings"]["second"]["sources"] = "other"
    file.write_text(json.dumps(record))
    with pytest.raises(ValueError, match="was measured or trained by other code than there is now"):
        ship(failing, tmp_path / "failed", "toy-model", package, seed=0, about="nothing")
    assert not package.exists()


def test_every_shipped_model_is_whole_and_small():
    folders = shipped.shipped_models()
    for name, path in folders.items():
        card = shipped.shipped_card(name)
        assert card["sha256"] == file_sha256(path / "model.safetensors")
    for name in shipped.shipped_language_models():
        lm = cutaway.load(name)
        assert lm.config.d_vocab == lm.tokenizer.d_vocab
    for name in shipped.shipped_toys():
        assert ToyModels.load(name).W.isfinite().all()
    assert folders.keys() == shipped.shipped_language_models().keys() | shipped.shipped_toys().keys()
    assert sum(file.stat().st_size for path in folders.values() for file in path.iterdir()) <= 5e6

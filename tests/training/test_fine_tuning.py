"""Going on from a model: the weights, the tokenizer and the shape are its own, whatever format it comes in."""

import shutil
from pathlib import Path

import pytest
import torch

from cutaway.data import split_tokens
from cutaway.language_model import load
from cutaway.runs import Run
from cutaway.tokenizers import tokenizer_hash
from cutaway.training import TrainConfig, resume, train, validation_loss
from cutaway.weights import save_hugging_face
from tiny_training import tiny_config, write_text


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def base(home: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        return train(tiny_config(write_text(home), out=str(home / "base"), n_steps=20, tokenizer="bpe-280"), quiet=True)


@pytest.fixture
def config(base: Path, home: Path, tmp_path: Path) -> TrainConfig:
    text = write_text(home, seed=1, name="other.txt")
    return tiny_config(text, from_model=str(base), tokenizer="own", out=str(tmp_path / "tuned"), n_ctx=16, n_window=8)


def test_it_begins_with_the_model_as_it_was(config: TrainConfig, base: Path) -> None:
    folder = train(config, quiet=True)
    before, first = load(base), load(folder / "checkpoints/step-000000")
    for name, weight in before.model.named_parameters():
        assert torch.equal(weight, first.model.get_parameter(name)), name
    assert tokenizer_hash(before.tokenizer) == tokenizer_hash(first.tokenizer)
    assert Run(folder).model_config == before.config
    tokens = before.tokens(Path(config.data).read_text())[0].numpy().astype("uint32")
    kept = split_tokens(tokens, validation_fraction=config.validation_fraction)[1]
    losses = Run(folder).metrics().curve("val_loss")[1]
    assert losses[0] == pytest.approx(validation_loss(before.model, kept, n_window=8), abs=1e-6)  # float32, the same sums
    assert losses[-1] < losses[0]


def test_any_format_will_do(config: TrainConfig, base: Path, tmp_path: Path) -> None:
    lm = load(base)
    save_hugging_face(lm.model, tmp_path / "hub", tokenizer=lm.tokenizer)
    runs = [train(config, quiet=True)]
    runs.append(train(config.replace(from_model=str(tmp_path / "hub"), out=str(tmp_path / "again")), quiet=True))
    weights = [load(run).model.state_dict() for run in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_goes_on_without_the_model_it_came_from(config: TrainConfig, base: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(base, tmp_path / "moved")
    half = train(config.replace(from_model=str(moved), out=str(tmp_path / "half"), n_steps=6), quiet=True)
    shutil.rmtree(moved)
    with pytest.raises(FileNotFoundError, match="no run or model of that name"):
        train(config.replace(from_model=str(moved), out=str(tmp_path / "none")), quiet=True)
    assert not (tmp_path / "none").exists()
    resume(half, n_steps=12, quiet=True)
    assert Run(half).latest_checkpoint().step == 12


def test_the_preset() -> None:
    config = TrainConfig.preset("fine-tune", data="notes.txt")
    assert (config.from_model, config.tokenizer, config.name) == ("smollm2-135m", "own", "notes")
    assert TrainConfig.preset("shakespeare-char", from_model="runs/mine").tokenizer == "own"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_layers": 2, "d_model": 32}, "a model to go on from has its own d_model, n_layers: leave out what is given"),
        ({"tokenizer": "gpt2"}, "a model to go on from reads its own tokenizer"),
        ({"n_window": 9000}, "n_window is 9000; expected at least 1 and at most the model's n_ctx, 8192"),
    ],
)
def test_what_cannot_be_chosen(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TrainConfig.preset("fine-tune", **changes)


def test_a_new_model_has_no_tokenizer_of_its_own() -> None:
    with pytest.raises(ValueError, match="from_model is None and tokenizer 'own'"):
        TrainConfig.preset("shakespeare-char", tokenizer="own")

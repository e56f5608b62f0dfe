"""Going on from a model: the weights, the tokenizer and the shape are its own, whatever format it comes in."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cutaway.assets import AssetError
from cutaway.config import ModelConfig
from cutaway.data import split_tokens
from cutaway.language_model import load
from cutaway.runs import Run
from cutaway.tokenizers import NoTokenizer, tokenizer_hash
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
    save_hugging_face(lm, tmp_path / "hub")
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


def test_what_the_model_came_with_stays_with_the_run(config: TrainConfig, base: Path, tmp_path: Path) -> None:
    lm = load(base)
    save_hugging_face(replace(lm, chat_template="{{ messages[0].content }}"), tmp_path / "hub")
    folder = train(config.replace(from_model=str(tmp_path / "hub"), n_steps=1), quiet=True)
    assert load(folder).chat_prompt("Hi") == "Hi"
    assert Run(folder).manifest["from_model"] == {"path": str(tmp_path / "hub"), "format": "Hugging Face folder"}


def test_a_run_stopped_before_its_first_checkpoint_begins_with_the_model_again(config: TrainConfig) -> None:
    folder = train(config.replace(n_steps=1), quiet=True)
    expected = load(folder / "checkpoints/step-000000").model.state_dict()
    shutil.rmtree(folder / "checkpoints")
    resume(folder, quiet=True)
    found = load(folder / "checkpoints/step-000000").model.state_dict()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_window_longer_than_the_context_is_the_context(config: TrainConfig, tmp_path: Path) -> None:
    preset = TrainConfig.preset("fine-tune", from_model=config.from_model, data=config.data, out=str(tmp_path / "out"), n_steps=1)
    folder = train(preset.replace(compile=False, device="cpu", dtype="float32"), quiet=True)
    assert Run(folder).recipe["n_window"] == 16


def test_a_model_without_a_tokenizer_takes_the_one_that_is_given(config: TrainConfig, base: Path, tmp_path: Path) -> None:
    lm = load(base)
    save_hugging_face(replace(lm, tokenizer=NoTokenizer()), tmp_path / "hub")
    bare = config.replace(from_model=str(tmp_path / "hub"))
    with pytest.raises(ValueError, match="came without a tokenizer: give the one that it was trained with"):
        train(bare, quiet=True)
    folder = train(bare.replace(tokenizer=str(base / "tokenizer.json"), n_steps=1), quiet=True)
    assert tokenizer_hash(load(folder).tokenizer) == tokenizer_hash(lm.tokenizer)
    with pytest.raises(ValueError, match=r"the tokenizer has 297 tokens and .* d_vocab 280"):
        train(bare.replace(tokenizer="bpe-297", out=str(tmp_path / "other")), quiet=True)


def test_a_state_without_its_shape_takes_it_from_a_file(config: TrainConfig, tmp_path: Path) -> None:
    shape = ModelConfig(
        d_vocab=40,
        n_ctx=16,
        n_layers=0,
        n_heads=1,
        d_model=4,
        norm="none",
        position="none",
        tie_embeddings=False,
        unembed_bias=True,
    )
    weights = torch.randn(2, 40, 4, generator=torch.Generator().manual_seed(0))
    torch.save({"embed.W_E": weights[0], "unembed.W_U": weights[1].T, "unembed.b_U": torch.zeros(40)}, tmp_path / "state.pt")
    (tmp_path / "shape.json").write_text(json.dumps(shape.to_dict()))
    bare = config.replace(from_model=str(tmp_path / "state.pt"), tokenizer="char")
    with pytest.raises(ValueError, match="does not hold the model's shape: give it by --config FILE"):
        train(bare, quiet=True)
    folder = train(bare.replace(from_config=str(tmp_path / "shape.json")), quiet=True)
    assert Run(folder).model_config == shape.replace(dropout=config.model.dropout)
    assert torch.equal(load(folder / "checkpoints/step-000000").model.embed.W_E, weights[0])
    with pytest.raises(ValueError, match="holds its own configuration: leave out --config"):
        train(config.replace(from_config=str(tmp_path / "shape.json"), out=str(tmp_path / "other")), quiet=True)


def test_a_shape_is_of_a_model_to_go_on_from() -> None:
    with pytest.raises(ValueError, match=r"from_config is 'shape.json', the shape of a model to go on from: give from_model"):
        TrainConfig.preset("shakespeare-char", from_config="shape.json")


def test_memory_is_asked_for_before_anything_is_written(config: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cutaway.language_model.free_memory_gib", lambda device: 1e-6)
    with pytest.raises(
        ValueError,
        match=r"step-000020 needs 0\.0 GiB of memory for weights, gradients, AdamW's two averages and .* and 0\.0 are free",
    ):
        train(config, quiet=True)
    assert not Path(config.out or "").exists()


def test_the_preset() -> None:
    config = TrainConfig.preset("fine-tune", data="notes.txt")
    assert (config.from_model, config.tokenizer, config.name) == ("smollm2-135m", "own", "notes")
    assert TrainConfig.preset("shakespeare-char", from_model="runs/mine").tokenizer == "own"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"n_layers": 2, "d_model": 32}, "a model to go on from has its own d_model, n_layers: leave out what is given"),
        ({"dtype": "float16"}, "dtype is 'float16'; expected one of auto, float32, bfloat16"),
        ({"learning_rate": float("inf")}, "learning_rate is inf; expected more than 0"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm is nan; expected more than 0"),
        ({"n_window": 9000}, "n_window is 9000; expected at least 1 and at most the model's n_ctx, 8192"),
    ],
)
def test_what_cannot_be_chosen(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TrainConfig.preset("fine-tune", **changes)


def test_a_new_model_has_no_tokenizer_of_its_own() -> None:
    with pytest.raises(ValueError, match="tokenizer is 'own', and a new model has none of its own"):
        TrainConfig.preset("shakespeare-char", tokenizer="own")


@pytest.mark.slow
def test_smollm2_learns_shakespeare(tmp_path: Path) -> None:
    """Twenty steps lower its loss on text that it is not trained on."""
    try:
        config = TrainConfig.preset("fine-tune", n_steps=20, out=str(tmp_path / "run"), n_validation_windows=16, sample_every=0)
        folder = train(config.replace(compile=False, validate_every=20), quiet=True)
    except AssetError as error:
        pytest.skip(f"SmolLM2 or Shakespeare cannot be fetched here: {error}")
    losses = Run(folder).metrics().curve("val_loss")[1]
    assert losses[-1] < losses[0] - 0.1

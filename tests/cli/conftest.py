import json
import shutil

import pytest
import torch

import cutaway as package
from circuit_commands import PAIRS
from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.cli.main import main
from cutaway.tokenizers import BPETokenizer
from cutaway.weights import save_hugging_face
from tiny_training import tiny_config, write_text

WORDS_TEXT = "The capital of France is Paris\nThe capital of England is London\n" * 40
"""What the tokens of `words` were made of."""


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """Every test has a cache and a folder of runs of its own, 80 columns, and no colours."""
    for name in ("CUTAWAY_TRACEBACK", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUTAWAY_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cutaway(capsys):
    """Run the command in this process; return its exit code and what it wrote to standard output and error."""

    def run(*arguments):
        code = main(arguments)
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return run


@pytest.fixture(scope="session")
def words_folder(tmp_path_factory):
    """A folder with a tiny model that has never learned anything, with grouped heads and rotary positions; its tokens are words."""
    tokenizer = BPETokenizer.train(WORDS_TEXT, 290)
    shape = ModelConfig(
        d_vocab=tokenizer.d_vocab, n_ctx=32, n_layers=2, n_heads=4, n_kv_heads=2, d_model=16, position="rotary", norm="rmsnorm",
        act="silu", gated_mlp=True, attn_bias=False, mlp_bias=False, d_mlp=24,
    )  # fmt: skip
    model = Transformer(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)  # so that the prompts' answers differ by more than rounding
    folder = tmp_path_factory.mktemp("words") / "words"
    save_hugging_face(LanguageModel(model, tokenizer), folder)
    return folder


@pytest.fixture
def words(words_folder, tmp_path):
    """The same, as "words" where the test runs."""
    return package.load(shutil.copytree(words_folder, tmp_path / "words"))


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        return package.train(tiny_config(write_text(home), out=str(home / "run"), n_steps=3, n_layers=2), quiet=True)


@pytest.fixture
def run(trained_run, tmp_path):
    """The latest run of this test's folder of runs: characters, 2 layers of 2 heads."""
    return shutil.copytree(trained_run, tmp_path / "runs/play")


@pytest.fixture
def pairs(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in PAIRS))
    return ["--prompts", "pairs.jsonl"]

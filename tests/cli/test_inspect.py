import json

import pytest
import torch

from cutaway.assets import CATALOGUE
from cutaway.cli.parameters import count_parameters
from cutaway.config import ModelConfig
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.tokenizers import BPETokenizer
from cutaway.weights import save_hugging_face, save_model
from gguf_files import write_llama
from run_directories import make_run, record


@pytest.fixture
def runs(tmp_path):
    make_run(tmp_path / "runs" / "small")
    make_run(tmp_path / "runs" / "large", n_layers=3)
    return tmp_path / "runs"


def test_a_run_is_shown_in_full(cutaway, runs):
    code, out, err = cutaway("inspect", "small")
    assert (code, err) == (0, "")
    text = "\n".join(" ".join(line.split()) for line in out.splitlines())
    for expected in (
        "progress step 100 of 100, 9.6k tokens, 1.0 s",
        "d_vocab 11 n_steps 100",
        "W_U 11 × 8 the same as W_E",
        "W_in 32 × 8 2 512",
        "Loss, nats a token",
        "step-000100",
        f"{record(100)['val_loss']:.4f}",
    ):
        assert expected in text
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80


def test_the_latest_run_is_the_default(cutaway, runs):
    with (runs / "small" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 105, "loss": 1.0}) + "\n")
    assert cutaway("inspect")[1].startswith("small")


def test_a_run_before_its_first_record_is_shown(cutaway, tmp_path):
    folder = make_run(tmp_path / "runs" / "new", n_steps=0, checkpoint_steps=())
    (folder / "manifest.json").unlink()
    code, out, err = cutaway("inspect", "new")
    assert (code, err) == (0, "")
    assert "No loss is logged yet." in out
    assert "No checkpoint is written yet." in out


def test_half_a_line_is_noted(cutaway, runs):
    with (runs / "small" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10')
    code, out, _ = cutaway("inspect", "small")
    assert code == 0
    assert "the last line of metrics.jsonl is cut off" in out
    assert "cut off" in json.loads(cutaway("inspect", "small", "--json")[1])["runs"][0]["note"]


def test_runs_stand_side_by_side_with_what_differs(cutaway, runs):
    code, out, err = cutaway("inspect", "small", "large")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines() if len(line.split()) == 3}
    assert rows["configuration"] == ["small", "large"]
    assert rows["n_layers"] == ["2", "3"]
    assert "d_model" not in rows
    assert "● small" in out
    assert "■ large" in out
    assert max(len(line.rstrip()) for line in out.splitlines()) <= 80


def test_a_checkpoint_is_shown_alone(cutaway, runs):
    code, out, _ = cutaway("inspect", "small/checkpoints/step-000050")
    assert code == 0
    assert out.startswith("small/step-000050")
    assert "weights in F32" in out


def test_a_damaged_checkpoint_is_an_error_in_a_sentence(cutaway, runs):
    (runs / "small/checkpoints/step-000050/model.safetensors").write_bytes(b"\0" * 20)
    code, _, err = cutaway("inspect", "small/checkpoints/step-000050")
    assert code == 2
    assert "model.safetensors is damaged" in err
    assert err.count("\n") == 1


def test_a_program_can_read_runs_and_checkpoints(cutaway, runs):
    out = cutaway("inspect", "small", "large/checkpoints/step-000100", "--json")[1]
    run, checkpoint = json.loads(out)["runs"]
    assert run["kind"] == "run"
    assert run["final"]["val_loss"] == record(100)["val_loss"]
    assert run["final"]["best_val_step"] == 100
    assert [each["step"] for each in run["checkpoints"]] == [50, 100]
    assert run["n_parameters"] == sum(parameter["count"] for parameter in run["parameters"])
    assert (checkpoint["kind"], checkpoint["step"]) == ("checkpoint", 100)
    assert checkpoint["model"]["n_layers"] == 3


def test_ascii_terminals_get_an_ascii_picture(cutaway, runs, monkeypatch):
    monkeypatch.setattr("cutaway.cli.inspect.is_unicode", lambda _: False)
    out = cutaway("inspect", "small")[1]
    assert out[out.index("Loss, nats") : out.index("checkpoint  ")].isascii()


# Radford et al. 2019 for the first four (as corrected by the authors); for the others the counts of the published models.
@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-medium", 354_823_168),
        ("gpt2-large", 774_030_080),
        ("gpt2-xl", 1_557_611_200),
        ("phi-2", 2_779_683_840),
        ("smollm2-135m", 134_515_008),
    ],
)
def test_counts_are_the_published_ones(preset, count):
    assert sum(parameter.count for parameter in count_parameters(ModelConfig.preset(preset))) == count


def test_the_counts_are_the_model_s(variant):
    from cutaway.model import Transformer

    parameters = count_parameters(variant)
    assert sum(parameter.count for parameter in parameters) == sum(p.numel() for p in Transformer(variant).parameters())
    assert all(parameter.n_places == variant.n_layers for parameter in parameters if parameter.component == "attention")
    assert [each.tied_to for each in parameters if each.name == "W_U"] == ["W_E" if variant.tie_embeddings else None]


class TestModelsOfOtherMakers:
    """Anything that loads is described, from headers alone."""

    @pytest.fixture
    def hub(self, tmp_path):
        model = Transformer(ModelConfig(d_vocab=300, n_ctx=16, n_layers=2, n_heads=2, d_model=16))
        save_hugging_face(LanguageModel(model, BPETokenizer()), tmp_path / "hub")
        return tmp_path / "hub"

    def test_a_hugging_face_folder(self, cutaway, hub, monkeypatch):
        monkeypatch.setattr("cutaway.weights.hugging_face.HuggingFaceFolder.tensors", None)  # no weight is read
        code, out, err = cutaway("inspect", "hub")
        assert (code, err) == (0, "")
        text = "\n".join(" ".join(line.split()) for line in out.splitlines())
        for expected in ("format Hugging Face folder", "family gpt2", "d_vocab 300", "W_in 64 × 16 2 2,048", "chat template none"):
            assert expected in text
        found = json.loads(cutaway("inspect", "hub", "--json")[1])["runs"][0]
        assert found["tensors"]["transformer.wte.weight"] == {"dtype": "F32", "shape": [300, 16]}

    def test_beside_a_run(self, cutaway, hub, runs):
        code, out, err = cutaway("inspect", "hub", "small")
        assert (code, err) == (0, "")
        assert any(line.split() == ["d_vocab", "300", "11"] for line in out.splitlines())

    def test_a_gguf_file(self, cutaway, tmp_path):
        write_llama(tmp_path / "model.gguf")
        code, out, err = cutaway("inspect", "model.gguf")
        assert (code, err) == (0, "")
        assert "architecture   llama" in out

    def test_a_transformer_lens_state_and_its_shape(self, cutaway, tmp_path):
        config = ModelConfig(
            d_vocab=5, n_ctx=8, n_layers=0, n_heads=1, d_model=4, norm="none", position="none", tie_embeddings=False
        )
        state = {"embed.W_E": torch.zeros(5, 4), "unembed.W_U": torch.zeros(4, 5), "unembed.b_U": torch.zeros(5)}
        torch.save(state, tmp_path / "state.pt")
        (tmp_path / "shape.json").write_text(json.dumps(config.to_dict()))
        code, _, err = cutaway("inspect", "state.pt")
        assert code == 2
        assert "does not hold the model's shape" in err
        code, out, err = cutaway("inspect", "state.pt", "--config", "shape.json")
        assert (code, err) == (0, "")
        assert "TransformerLens" in out
        make_run(tmp_path / "runs/tiny")
        for name in ("tiny", "runs/tiny/checkpoints/step-000050", "gpt2"):
            code, _, err = cutaway("inspect", name, "--config", "shape.json")
            assert (code, err) == (2, f"cutaway: the shape of {name} is known: leave out --config\n")

    @pytest.mark.parametrize("name", [asset.name for asset in CATALOGUE.values() if asset.kind == "model"])
    def test_a_model_that_is_not_here_is_shown_by_its_shape(self, cutaway, tmp_path, name):
        code, out, err = cutaway("inspect", name)
        assert (code, err) == (0, "")
        assert f"not downloaded: `cutaway download {name}`" in out
        told = "".join(out.split())  # without the breaks of 80 columns
        for file in CATALOGUE[name].files:
            assert "".join(f"from {', or '.join(map(str, file.sources))}".split()) in told
            assert f"sha256{file.sha256 or 'asthehubhasit'}" in told
        assert f"{CATALOGUE[name].n_parameters:,}" in out
        found = json.loads(cutaway("inspect", name, "--json")[1])["runs"][0]
        assert (found["path"], found["kind"]) == (None, "not downloaded")
        assert found["n_parameters"] == CATALOGUE[name].n_parameters
        assert not (tmp_path / "cache").exists()

    def test_of_models_side_by_side_the_tokenizers_are_named(self, cutaway, hub):
        code, out, err = cutaway("inspect", "hub", "gpt2")
        assert (code, err) == (0, "")
        row = next(line for line in out.splitlines() if line.startswith("tokenizer"))
        assert " ".join(row.split()) == "tokenizer byte_pair, 256 tokens not downloaded"

    def test_a_run_comes_before_a_model_of_the_same_name(self, cutaway, tmp_path):
        make_run(tmp_path / "runs" / "gpt2")
        code, out, err = cutaway("inspect", "gpt2")
        assert (code, err) == (0, "")
        assert "step 100 of 100" in out

    def test_a_folder_of_ours_is_a_checkpoint(self, cutaway, tmp_path):
        save_model(Transformer(ModelConfig(d_vocab=7, n_ctx=4, n_layers=1, n_heads=1, d_model=4)), tmp_path / "ours")
        for name in ("ours", "ours/model.safetensors"):
            assert json.loads(cutaway("inspect", name, "--json")[1])["runs"][0]["kind"] == "checkpoint"

    @pytest.mark.parametrize(
        ("name", "sentence"),
        [
            ("nowhere", "there is no file or folder nowhere, and no run or model of that name"),
            (".", ". holds no config.json, so it is no model; expected a run or a checkpoint"),
            ("gpt2-vocab", "there is no file or folder gpt2-vocab, and no run or model of that name"),
        ],
    )
    def test_what_is_no_model(self, cutaway, name, sentence):
        code, out, err = cutaway("inspect", name)
        assert (code, out) == (2, "")
        assert sentence in err
        assert err.count("\n") == 1


def test_a_model_that_comes_with_cutaway_says_what_it_is(cutaway):
    code, out, _ = cutaway("inspect", "induction-2l")
    assert code == 0
    assert "two layers of attention with induction heads" in out

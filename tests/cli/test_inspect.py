import json

import pytest

from cutaway.cli.parameters import count_parameters
from cutaway.config import ModelConfig
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

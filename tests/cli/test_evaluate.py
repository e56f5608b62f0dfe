import json
import shutil

import pytest

import cutaway as package
from cutaway import evaluation
from cutaway.data import split_tokens
from tiny_training import tiny_config, write_text

ROW = {"activity_label": "a king", "ctx_a": "the king", "ctx_b": "and", "ctx": "the king and", "label": 1}
ROW["endings"] = ["his crown", "the fool laughs", "never", "of the night"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUTAWAY_CACHE", str(home / "cache"))
        config = tiny_config(write_text(home), out=str(home / "run"), tokenizer="bpe-280", n_ctx=32, save_every=6)
        return package.train(config, quiet=True)


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs/play")


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(ROW | {"label": label}) + "\n" for label in (0, 1, 2, 3, 1)))
    return path


def test_a_run_is_measured_on_the_text_that_it_kept_for_validation(cutaway, run, trained):
    code, out, err = cutaway("evaluate", "--json")
    assert (code, err) == (0, "")
    (found,) = json.loads(out).values()
    lm = package.load(run)
    tokens = lm.tokens((trained.parent / "play.txt").read_text())[0].numpy().astype("uint32")
    kept = lm.text(split_tokens(tokens)[1].tolist())
    assert found == json.loads(json.dumps(evaluation.perplexity(lm, kept).to_dict()))
    assert f"{found['metrics']['nats_per_token']['value']:.4g}" in " ".join(cutaway("evaluate")[1].split())


def test_a_given_text_with_its_own_window(cutaway, run, tmp_path):
    (tmp_path / "notes.txt").write_text("the fool and the king laughs at night. " * 9)
    code, out, _ = cutaway("evaluate", "play", "--data", "notes.txt", "--window", "16", "--stride", "4", "--limit", "60", "--json")
    assert code == 0
    settings = json.loads(out)["play"]["settings"]
    assert (settings["window"], settings["stride"]) == (16, 4)
    assert settings["n_tokens"] <= 60


@pytest.mark.parametrize("protocol", ["lm-eval", "completion"])
def test_hellaswag_is_the_librarys(cutaway, run, rows, protocol):
    arguments = ("evaluate", "play", "--task", "hellaswag", "--data", str(rows), "--protocol", protocol, "--limit", "4")
    code, out, _ = cutaway(*arguments, "--json")
    assert code == 0
    expected = evaluation.multiple_choice(package.load(run), rows, protocol=protocol, limit=4)
    assert json.loads(out)["play"] == json.loads(json.dumps(expected.to_dict()))
    table = cutaway(*arguments)[1]
    assert str(expected.metrics["acc_norm"]) in " ".join(table.split())
    assert max(len(line.rstrip()) for line in table.splitlines()) <= 80


def test_lambada(cutaway, run, tmp_path):
    (tmp_path / "passages.jsonl").write_text('{"text": "the king and his fool"}\n')
    code, out, _ = cutaway("evaluate", "--task", "lambada", "--data", "passages.jsonl", "--json")
    assert code == 0
    (found,) = json.loads(out).values()
    assert found["rows"][0]["word"] == " fool"


def test_every_checkpoint_stands_in_one_table(cutaway, run):
    code, out, _ = cutaway("evaluate", "play", "--checkpoints")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines() if line.startswith("step-")] == [
        "step-000000",
        "step-000006",
        "step-000012",
    ]


def test_what_was_measured_is_kept_and_taken_up(cutaway, run, rows, monkeypatch):
    arguments = ("evaluate", "play", "--task", "hellaswag", "--data", str(rows), "--json")
    first = cutaway(*arguments)
    assert list((run.parent.parent / "cache" / "evaluations").iterdir())
    monkeypatch.setattr("cutaway.evaluation.scoring._score_rows", None)  # nothing is computed again
    assert cutaway(*arguments) == first


def test_two_models_are_compared(cutaway, run):
    first, last = (f"runs/play/checkpoints/step-{step:06d}" for step in (0, 12))
    code, out, _ = cutaway("evaluate", first, last, "--compare", "--limit", "50")
    assert code == 0
    assert "the first activation to differ by more than 1e-05 of its norm is embed" in out
    found = json.loads(cutaway("evaluate", first, first, "--compare", "--json")[1])
    assert (found["kl"], found["agreement"], found["first_difference"]) == (0.0, 1.0, None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--protocol", "completion"], "--protocol is for --task hellaswag"),
        (["--task", "hellaswag", "--protocol", "mine", "--data", "rows.jsonl"], "there is no protocol 'mine'"),
        (["--task", "lambada", "--window", "8"], "--window and --stride are for --task perplexity"),
        (["--limit", "0"], "--limit is 0; expected at least 1"),
        (["--window", "99"], "the window is 99 tokens; expected 1 to n_ctx 32"),
        (["play", "--compare"], "--compare takes two models and a text, not 1"),
        (["runs/play/checkpoints/step-000006", "--checkpoints"], "is one checkpoint: --checkpoints takes runs"),
        (["play", "--task", "hellaswag", "--data", "absent.jsonl"], "there is no file 'absent.jsonl'"),
        (["play", "--task", "hellaswag", "--data", "bad.jsonl"], "bad.jsonl, line 2: the field 'endings' is missing"),
        (["nowhere"], "there is no file or folder nowhere"),
        (["--task", "glue"], "--task is 'glue'; expected perplexity, hellaswag or lambada"),
    ],
)
def test_bad_input_is_a_sentence(cutaway, run, rows, tmp_path, arguments, sentence):
    bad = {name: value for name, value in ROW.items() if name != "endings"}
    (tmp_path / "bad.jsonl").write_text(f"{json.dumps(ROW)}\n{json.dumps(bad)}\n")
    code, out, err = cutaway("evaluate", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_model_without_a_run_has_no_text_of_its_own(cutaway, run, tmp_path):
    lm = package.load(run)
    from cutaway.weights import save_hugging_face

    save_hugging_face(lm.model, tmp_path / "hub", tokenizer=lm.tokenizer)
    code, _, err = cutaway("evaluate", "hub")
    assert code == 2
    assert "hub is no run, which would have a text of its own: give one with --data" in err

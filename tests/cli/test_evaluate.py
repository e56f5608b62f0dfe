import hashlib
import json
import shutil
import weakref

import numpy as np
import pytest

import cutaway as package
from cutaway import evaluation
from cutaway.cli.evaluate import _n_within
from cutaway.data import split_tokens
from cutaway.language_model import LanguageModel, load
from cutaway.tokenizers import END_OF_TEXT, BPETokenizer
from cutaway.weights import save_hugging_face
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
    lm, text = package.load(run), trained.parent / "play.txt"
    kept = split_tokens(np.asarray(lm.tokenizer.encode(text.read_text()), dtype="uint32"))[1].tolist()
    expected = evaluation.perplexity(lm, kept, source=f"the validation part of {text}")
    whole = json.loads(json.dumps(expected.to_dict()))
    assert len(whole.pop("rows")) > 1  # a window each, which nobody asked for
    assert found == whole
    assert f"{found['metrics']['nats_per_token']['value']:.4g}" in " ".join(cutaway("evaluate")[1].split())


def test_a_given_text_with_its_own_window(cutaway, run, tmp_path):
    (tmp_path / "notes.txt").write_text("the fool and the king laughs at night. " * 9)
    code, out, _ = cutaway("evaluate", "play", "--data", "notes.txt", "--window", "16", "--stride", "4", "--limit", "60", "--json")
    assert code == 0
    settings = json.loads(out)["play"]["settings"]
    assert (settings["window"], settings["stride"]) == (16, 4)
    assert settings["n_bytes"] == 59  # of 60 characters the first is not predicted
    assert settings["source"] == "notes.txt"
    assert settings["sha256"] == hashlib.sha256((tmp_path / "notes.txt").read_bytes()[:60]).hexdigest()
    table = " ".join(cutaway("evaluate", "play", "--data", "notes.txt", "--limit", "60")[1].split())
    assert f"on notes.txt, sha256 {settings['sha256'][:12]}, " in table


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


def test_a_damaged_checkpoint_is_a_line_and_the_others_are_measured(cutaway, run):
    whole = cutaway("evaluate", "play", "--checkpoints")[1]
    (run / "checkpoints/step-000000/config.json").unlink()
    damaged = run / "checkpoints/step-000006/model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    code, out, err = cutaway("evaluate", "play", "--checkpoints")
    assert code == 1
    assert [line.split()[:2] for line in out.splitlines() if line.startswith("step-")] == [
        ["step-000000", "unreadable"],
        ["step-000006", "unreadable"],
        next(line.split()[:2] for line in whole.splitlines() if line.startswith("step-000012")),
    ]
    said = err.splitlines()
    assert said[0] == "cutaway: 2 of 3 checkpoints could not be read"
    assert said[1].startswith(f"  {run / 'checkpoints/step-000000'} holds no config.json")
    assert said[2].startswith(f"  {damaged} is damaged")
    code, out, _ = cutaway("evaluate", "play", "--checkpoints", "--json")
    assert code == 1
    assert list(json.loads(out)[str(damaged.parent)]) == ["error"]
    (run / "checkpoints/step-000012/config.json").unlink()
    code, out, err = cutaway("evaluate", "play", "--checkpoints")
    assert (code, out) == (1, "")
    assert err.startswith("cutaway: 3 of 3 checkpoints could not be read\n")
    shutil.rmtree(run / "checkpoints")
    code, _, err = cutaway("evaluate", "play", "--checkpoints")
    assert (code, err.startswith("cutaway: play has no checkpoint yet: go on with it by ")) == (2, True)


def test_of_several_models_it_says_which_failed(cutaway, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "runs/other")
    for options in ((), ("--compare",)):
        assert cutaway("evaluate", "play", "nowhere", *options)[2].startswith(
            "cutaway: nowhere: there is no file or folder nowhere"
        )
    (other / "tokenizer.json").write_text('{"kind": "abacus"}')
    assert cutaway("evaluate", "play", "other", "--compare")[2].startswith("cutaway: other: ")
    shutil.rmtree(other)
    (tmp_path / "notes.txt").write_text("k")
    code, _, err = cutaway("evaluate", "play", "play", "--data", "notes.txt")
    assert (code, err.startswith("cutaway: play: the text has fewer than two tokens")) == (2, True)
    assert cutaway("evaluate", "play", "--data", "notes.txt")[2].startswith("cutaway: the text has fewer")


def test_what_was_stopped_goes_on_and_what_is_complete_is_not_kept(cutaway, run, rows, monkeypatch):
    arguments = ("evaluate", "play", "--task", "hellaswag", "--data", str(rows), "--json")
    folder = run.parent.parent / "cache" / "evaluations"
    expected = cutaway(*arguments)
    assert list(folder.iterdir()) == []
    score_batches = evaluation.partial.score_batches

    def interrupted(*given, **options):
        yield next(score_batches(*given, **options | {"n_batch_tokens": 60}))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cutaway.evaluation.partial.score_batches", interrupted)
        code, _, err = cutaway(*arguments)
    (left,) = folder.iterdir()
    n_left = len(left.read_text().splitlines())
    assert 0 < n_left < 5
    assert (code, err) == (130, f"cutaway: stopped after {n_left} of 5 rows: the same command goes on from there\n")
    done = []

    def counted(*given, **options):
        done.append(len(options["done"]))
        return score_batches(*given, **options)

    monkeypatch.setattr("cutaway.evaluation.partial.score_batches", counted)
    assert cutaway(*arguments) == (*expected[:2], f"[play: going on after {n_left} of 5 rows]\n")
    assert done == [n_left]
    assert list(folder.iterdir()) == []


def test_models_with_other_tokenizers_read_the_same_span(cutaway, run, tmp_path, make_model):
    """Of a given text the limit cuts characters, whose number does not depend on who reads."""
    lm = load(run)
    tokenizer = BPETokenizer(special_tokens=[END_OF_TEXT])
    other = LanguageModel(make_model(lm.config.replace(d_vocab=tokenizer.d_vocab)).float(), tokenizer)
    save_hugging_face(other, tmp_path / "bytes")
    (tmp_path / "notes.txt").write_text("the naïve fool laughs at the king — at night. " * 9)
    code, out, err = cutaway("evaluate", "play", "bytes", "--data", "notes.txt", "--limit", "50", "--json")
    assert (code, err) == (0, "")
    settings = [found["settings"] for found in json.loads(out).values()]
    assert settings[0]["n_tokens"] != settings[1]["n_tokens"]
    assert {each["sha256"] for each in settings} == {hashlib.sha256((tmp_path / "notes.txt").read_text()[:50].encode()).hexdigest()}


@pytest.mark.parametrize("limit", [1, 2, 37, 99, 10_000])
def test_of_a_runs_own_ids_the_limit_takes_those_within_so_many_characters(cutaway, run, trained, limit):
    lm = load(run)
    kept = split_tokens(np.asarray(lm.tokenizer.encode((trained.parent / "play.txt").read_text()), dtype="uint32"))[1].tolist()
    expected = [place for place in range(len(kept) + 1) if len(lm.text(kept[:place])) <= limit][-1]
    code, out, err = cutaway("evaluate", "play", "--limit", str(limit), "--json")
    if expected < 2:
        assert (code, "the text has fewer than two tokens" in err) == (2, True)
    else:
        assert json.loads(out)["play"]["settings"]["n_tokens"] == expected - 1


def test_characters_of_several_ids_are_not_cut():
    tokenizer = BPETokenizer()  # bytes
    ids = tokenizer.encode("a—b😀c")
    found = [_n_within(ids, tokenizer, n_characters) for n_characters in range(7)]
    assert found == [len("a—b😀c"[:n_characters].encode()) for n_characters in range(7)]


def test_runs_with_texts_of_their_own(cutaway, run, trained, tmp_path):
    other_text = write_text(tmp_path, seed=1, name="other.txt")
    other = shutil.copytree(run, tmp_path / "runs/other")
    config, manifest = (json.loads((other / name).read_text()) for name in ("config.json", "manifest.json"))
    config["train"]["data"] = str(other_text)
    manifest["data"]["sha256"] = hashlib.sha256(other_text.read_bytes()).hexdigest()
    (other / "config.json").write_text(json.dumps(config))
    (other / "manifest.json").write_text(json.dumps(manifest))
    code, out, err = cutaway("evaluate", "play", "other", "--json")
    assert code == 0
    assert len({found["settings"]["sha256"] for found in json.loads(out).values()}) == 2
    assert "each run was read on its own validation text and these differ" in err
    assert cutaway("evaluate", "play", "other", "--data", str(other_text))[2] == ""

    other_text.write_text(other_text.read_text() + "and on")
    code, _, err = cutaway("evaluate", "other")
    assert code == 2
    assert "other.txt has changed since runs/other was trained on it" in err.replace(f"{tmp_path}/", "")
    assert err.count("\n") == 1
    (other / "manifest.json").unlink()  # nothing to hold it against
    assert cutaway("evaluate", "other")[0] == 0


def test_a_model_is_gone_before_the_next_is_loaded(cutaway, run, monkeypatch):
    loaded = []

    def load_alone(*given, **options):
        assert [model for model in loaded if model() is not None] == []
        lm = load(*given, **options)
        loaded.append(weakref.ref(lm.model))
        return lm

    monkeypatch.setattr("cutaway.language_model.load", load_alone)
    code, _, err = cutaway("evaluate", "play", "--checkpoints")
    assert (code, err) == (0, "")
    assert len(loaded) == 3


def test_two_models_are_compared(cutaway, run):
    first, last = (f"runs/play/checkpoints/step-{step:06d}" for step in (0, 12))
    code, out, _ = cutaway("evaluate", first, last, "--compare", "--limit", "50")
    assert code == 0
    assert "the first activation to differ by more than 1e-05 of its norm is embed" in out
    assert "on the validation part of " in out
    found = json.loads(cutaway("evaluate", first, first, "--compare", "--json")[1])
    assert found["source"].endswith("play.txt")
    assert (found["kl"], found["agreement"], found["first_difference"]) == (0.0, 1.0, None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--protocol", "completion"], "--protocol is for --task hellaswag"),
        (["--task", "hellaswag", "--protocol", "mine", "--data", "rows.jsonl"], "there is no protocol 'mine'"),
        (["--task", "lambada", "--window", "8"], "--window is for --task perplexity"),
        (["--limit", "0"], "--limit is 0; expected at least 1"),
        (["--window", "99"], "the window is 99 tokens; expected 1 to n_ctx 32"),
        (["play", "--compare"], "--compare takes two models, and there is 1"),
        (["play", "play", "--compare", "--checkpoints"], "--compare and --checkpoints do not go together: it reads one"),
        (["runs/play/checkpoints/step-000006", "--checkpoints"], "is one model: --checkpoints takes runs"),
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
    save_hugging_face(lm, tmp_path / "hub")
    code, _, err = cutaway("evaluate", "hub")
    assert code == 2
    assert "hub is no run, which would have a text of its own: give one with --data" in err

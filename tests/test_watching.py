"""What is watched while a model learns: the values against models whose circuit is known, the schedule, and when something rose."""

import json
import math
import warnings

import numpy as np
import pytest
import torch

import cutaway as package
from cutaway.config import ModelConfig
from cutaway.data import read_corpus
from cutaway.experiments.handmade import HANDMADE
from cutaway.hooks import recording
from cutaway.model import Transformer
from cutaway.runs import LOGGED, Run
from cutaway.runtime import seeded_generator
from cutaway.training import TrainConfig, TrainingError
from cutaway.training.schedule import is_watched
from cutaway.training.setup import Materials
from cutaway.watching.families import FAMILIES
from cutaway.watching.observers import WATCHABLE, read_text
from cutaway.watching.record import WatchedFamily, read_watched
from cutaway.watching.rises import find_rise, random_overlap
from cutaway.watching.run import resume, train
from run_directories import make_watched_run
from tiny_training import learned, tiny_config, write_text

EVERYTHING = tuple(FAMILIES)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_folders(tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("CUTAWAY_CACHE", str(shared_cache))
    monkeypatch.setenv("CUTAWAY_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config(tmp_path):
    return tiny_config(write_text(tmp_path), n_layers=2)


def materials_of(made, tmp_path, **changes):
    """Return what a run of a model made by hand would begin with, on a text of random letters."""
    text = "".join("abcdefghijklmnopqrstuvwxyz"[i] for i in torch.randint(26, (900,), generator=seeded_generator(3)).tolist())
    (tmp_path / "letters.txt").write_text(text)
    tokens = np.array(made.tokenizer.encode(text), dtype=np.uint16)
    config = TrainConfig(model=made.model.config, data=str(tmp_path / "letters.txt"), **changes)
    return Materials(config, read_corpus(config.data), made.tokenizer, tokens[:400], tokens[400:])


def observed(model, materials, *names):
    return {name: value for observe in WATCHABLE.make(names, materials).values() for name, value in observe(0, model).items()}


# --- what the observers find


@pytest.mark.parametrize("name", ["induction", "induction, rotary", "induction, grouped", "induction, with decoys"])
def test_the_heads_of_a_known_circuit_are_found_with_their_attention(name, tmp_path):
    made = HANDMADE[name]()
    found = observed(made.model, materials_of(made, tmp_path), "induction", "previous_token", "duplicate_token")
    heads = {said: f"L{head.layer}H{head.head}" for head, said in made.circuit.heads.items()}
    assert found["induction.best"] == found[f"induction.{heads['induction']}"] >= made.attention
    # exactly its attention by construction, to rounding; only the first queries of a rotary model see few keys and give more
    assert found[f"previous_token.{heads['previous token']}"] == pytest.approx(made.attention, abs=5e-3)
    others = [value for key, value in found.items() if key.startswith("induction.L") and key[10:] != heads["induction"]]
    assert max(others) < 0.5


def test_copying_and_repetition_of_a_model_that_repeats(tmp_path):
    made = HANDMADE["induction"]()
    found = observed(made.model, materials_of(made, tmp_path), "copying", "repetition")
    inducing = next(head for head, said in made.circuit.heads.items() if said == "induction")
    assert found[f"copying.L{inducing.layer}H{inducing.head}"] == pytest.approx(1, abs=1e-6)  # it writes the token it reads
    assert found["repetition.score"] == pytest.approx(found["repetition.second"] - found["repetition.first"])
    assert found["repetition.score"] < -1


def test_one_run_over_text_gives_what_the_record_of_it_gives():
    config = ModelConfig(d_vocab=11, n_ctx=12, n_layers=2, n_heads=3, d_model=12, d_head=4)
    model = Transformer(config, generator=seeded_generator(1)).double().train()
    tokens = torch.randint(11, (5, 13), generator=seeded_generator(2))
    found = read_text(model, tokens[:, :-1], tokens[:, 1:], batch_size=2)
    assert model.training
    assert all(weight.grad is None for weight in model.parameters())
    hooks, seen = recording("*")
    with torch.no_grad():
        log_probs = model.eval()(tokens[:, :-1], hooks=hooks).log_softmax(dim=-1)
    losses = torch.tensor(
        [[-log_probs[row, pos, tokens[row, pos + 1]].item() for pos in range(12)] for row in range(5)], dtype=torch.float64
    )
    assert found.losses.tolist() == pytest.approx(losses.mean(dim=0).tolist(), abs=1e-6)  # logits are float32 there
    for layer in range(2):
        pattern = seen[f"blocks.{layer}.attn.pattern"]
        entropies = -(pattern * pattern.clamp_min(1e-300).log()).sum(dim=-1)[..., 1:].mean(dim=(0, 2))
        assert found.entropies[layer].tolist() == pytest.approx(entropies.tolist(), abs=1e-12)
        norm = seen[f"blocks.{layer}.resid_post"].square().sum(dim=-1).sqrt().mean().item()
        assert found.resid_norms[layer + 1].item() == pytest.approx(norm, abs=1e-12)
    assert found.resid_norms[0].item() == pytest.approx(seen["blocks.0.resid_pre"].norm(dim=-1).mean().item(), abs=1e-12)


def test_in_context_learning_is_late_less_early(tmp_path):
    made = HANDMADE["induction"]()
    materials = materials_of(made, tmp_path)
    tokens = torch.from_numpy(materials.validation_tokens.astype("int64"))
    n_windows = (len(tokens) - 1) // 40
    rows = torch.stack([tokens[40 * row : 40 * row + 41] for row in range(n_windows)])
    with torch.no_grad():
        log_probs = made.model(rows[:, :-1]).log_softmax(dim=-1)
    losses = -log_probs.gather(-1, rows[:, 1:, None])[..., 0].mean(dim=0)
    found = observed(made.model, materials, "icl")
    early, late = losses[3:5].mean().item(), losses[38:40].mean().item()  # around 40 * 50 / 512 and 40 * 500 / 512, two of 40 wide
    assert found == pytest.approx({"icl.score": late - early, "icl.early": early, "icl.late": late}, abs=1e-6)


def test_the_lens_is_the_divergence_of_what_each_layer_says(tmp_path):
    made = HANDMADE["induction, LayerNorm and MLP"]()
    materials = materials_of(made, tmp_path)
    tokens = torch.from_numpy(materials.validation_tokens.astype("int64"))[: (len(materials.validation_tokens) - 1) // 40 * 40]
    hooks, seen = recording("blocks.0.resid_pre", "blocks.*.resid_post")
    with torch.no_grad():
        final = made.model(tokens.view(-1, 40), hooks=hooks).log_softmax(dim=-1)
        for label, name in (("embed", "blocks.0.resid_pre"), ("L0", "blocks.0.resid_post")):
            lens = made.model.unembed(seen[name]).log_softmax(dim=-1)
            expected = torch.nn.functional.kl_div(lens, final, log_target=True, reduction="none").sum(dim=-1).mean().item()
            found = observed(made.model, materials, "logit_lens")[f"logit_lens.{label}"]
            assert found == pytest.approx(expected, rel=1e-6)


def test_a_value_does_not_depend_on_what_else_is_watched(tmp_path):
    made = HANDMADE["induction, with an MLP"]()
    materials = materials_of(made, tmp_path)
    together = observed(made.model, materials, *EVERYTHING)
    alone = [observed(made.model, materials, name) for name in EVERYTHING]
    assert together == {name: value for each in alone for name, value in each.items()}
    assert {name.split(".")[0] for name in together} == set(EVERYTHING)
    assert all(len(each) >= 1 for each in alone)


def test_sequences_fit_the_window_that_is_trained_on(tmp_path):
    made = HANDMADE["induction, learned positions"]()
    model = made.model
    seen = []
    observe = WATCHABLE.make(("induction",), materials_of(made, tmp_path, n_window=24))["random tokens that come twice"]
    handle = model.embed.register_forward_hook(lambda module, given, out: seen.append(given[0].shape[1]))
    observe(0, model)
    handle.remove()
    assert set(seen) == {24}


def test_what_a_model_cannot_show_is_refused_before_anything_is_written(config, tmp_path):
    without = config.replace(model=ModelConfig(d_vocab=1, n_ctx=16, n_layers=0, n_heads=1, d_model=8))
    with pytest.raises(ValueError, match="a model without layers has no induction, copying: watch icl or norms alone"):
        train(without.replace(watch=("induction", "copying")), quiet=True)
    with pytest.raises(ValueError, match="at least 2 tokens that come twice cannot be drawn: no more fits the context of 3"):
        train(config.replace(n_window=3, watch=("induction",)), quiet=True)
    wide = config.replace(model=config.model.replace(d_vocab_out=99, tie_embeddings=False), watch=("copying",))
    with pytest.raises(ValueError, match=r"the model has 99 logits for .* tokens, so it has no copying: watch others"):
        train(wide, quiet=True)
    assert list((tmp_path / "runs").iterdir()) == []
    metrics = Run(train(without.replace(watch=("icl", "norms")), quiet=True)).metrics()
    assert set(metrics.watched()) >= {"icl.score", "norms.W_E"}


# --- what training makes of them


def test_watching_changes_nothing_of_what_is_learnt(config):
    plain = train(config.replace(out="plain"), quiet=True)
    watched = train(config.replace(out="watched", watch=EVERYTHING, watch_every=3), quiet=True)
    assert learned(plain) == learned(watched)
    metrics = Run(watched).metrics()
    assert {name.split(".")[0] for name in metrics.watched()} == set(EVERYTHING)
    assert Run(plain).metrics().watched() == []
    assert all(math.isfinite(value) for name in metrics.watched() for value in metrics.curve(name)[1])


def test_the_last_values_are_those_of_the_model_saved(config):
    folder = train(config.replace(watch=("attention_entropy",), watch_every=12), quiet=True)
    lm = package.load(folder)
    corpus = read_corpus(config.data)
    ids = np.array(lm.tokenizer.encode(corpus.text))
    recipe = TrainConfig.of_run(Run(folder))
    held_out = package.training.setup.prepare(recipe, tokenizer=lm.tokenizer)
    assert len(ids) == len(held_out.train_tokens) + len(held_out.validation_tokens)
    found = observed(lm.model, held_out, "attention_entropy")
    metrics = Run(folder).metrics()
    assert found == {name: metrics.last(name) for name in metrics.watched()}


def test_the_schedule_is_dense_where_things_happen_fast(config):
    steps = [step for step in range(1, 1001) if is_watched(step, config.replace(validate_every=10_000))]
    assert steps[:15] == [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 13, 16, 19, 23, 27]
    assert steps == sorted({round(2 ** (place / 4)) for place in range(40)})
    assert [step for step in range(300, 400) if is_watched(step, config.replace(validate_every=25))] == [
        300, 304, 325, 350, 362, 375,
    ]  # fmt: skip
    assert [step for step in range(30) if is_watched(step, config.replace(watch_every=7))] == [0, 7, 14, 21, 28]


def test_values_are_logged_on_their_schedule_and_the_last_step(config):
    folder = train(config.replace(watch=("norms",), watch_every=5, log_every=100), quiet=True)
    assert Run(folder).metrics().curve("norms.W_E")[0] == [0, 5, 10, 12]
    assert [record["step"] for record in Run(folder).metrics().records] == [0, 4, 5, 8, 10, 12]
    dense = train(config.replace(watch=("norms",), log_every=100), quiet=True)
    assert Run(dense).metrics().curve("norms.W_E")[0] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12]
    with pytest.raises(ValueError, match="watch_every is 0; expected at least 1"):
        config.replace(watch_every=0)


def test_a_resumed_run_goes_on_watching(config):
    whole = train(config.replace(out="whole", n_steps=16, watch=("induction",), watch_every=4), quiet=True)
    folder = train(config.replace(out="part", n_steps=16, watch=("induction",), watch_every=4, save_every=7), quiet=True)
    for path in (folder / "checkpoints").glob("step-00001*"):
        for file in path.iterdir():
            file.unlink()
        path.rmdir()
    resume(folder, quiet=True)
    name = "induction.L1H0"
    assert Run(folder).metrics().curve(name) == Run(whole).metrics().curve(name)
    resume(folder, n_steps=20, watch=("norms",), quiet=True)
    assert Run(folder).recipe["watch"] == ["norms"]
    assert Run(folder).metrics().curve("norms.W_E")[0] == [20]


def test_unknown_names_are_refused_with_the_nearest(config, tmp_path):
    with pytest.raises(ValueError, match=r"there is no observer 'inductoin'; did you mean 'induction'\? there are induction, prev"):
        package.train(config.replace(watch=("norms", "inductoin")), quiet=True)
    assert not (tmp_path / "runs").exists()
    folder = train(config.replace(watch=("norms",)), quiet=True)
    file = folder / "config.json"
    with pytest.raises(ValueError, match=r"^there is no observer 'icll'"):
        resume(folder, watch=("icll",))
    values = json.loads(file.read_text())
    values["train"]["watch"] = ["normes"]
    file.write_text(json.dumps(values))
    with pytest.raises(ValueError, match=r"config.json: there is no observer 'normes'; did you mean 'norms'\?"):
        resume(folder, quiet=True)


def test_own_observers_return_any_kind_of_number(config):
    given = {
        "a": lambda step, model: {"own.size": model.embed.W_E.norm(), "own.step": step},
        "b": lambda *_: {"one": np.float32(1)},
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics = Run(package.train(config.replace(watch_every=6), observers=given, quiet=True)).metrics()
    assert metrics.curve("own.step") == ([0, 6, 12], [0.0, 6.0, 12.0])
    assert metrics.last("one") == 1.0
    assert metrics.last("own.size") > 0


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"loss": 1.0}, "the observer 'mine' calls a value 'loss', as what training itself logs: give it a name of its own"),
        ({"norms.W_E": 1.0}, "the observer 'mine' calls a value 'norms.W_E', as what another observer does"),
        ({"word": "a"}, "the observer 'mine' returned str for 'word'; expected a number"),
        ({"two": torch.ones(2)}, "the observer 'mine' returned Tensor for 'two'; expected a number"),
    ],
)
def test_own_observers_keep_to_their_names(config, tmp_path, found, said):
    with pytest.raises(ValueError, match=said):
        train(config.replace(watch=("norms",)), observers={"mine": lambda *_: found}, quiet=True)
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.parametrize("rate", [1e39, 1e25])
def test_weights_that_overflow_stop_the_run_as_they_would_unwatched(config, rate):
    config = config.replace(
        learning_rate=rate, min_learning_rate=rate, n_warmup_steps=0, watch=EVERYTHING, watch_every=1, validate_every=50
    )
    with pytest.raises(TrainingError, match="is nan after step"):
        train(config, quiet=True)


def test_what_training_logs_is_known_apart_from_what_is_watched(config):
    records = Run(train(config.replace(watch=("icl",), watch_every=12), quiet=True)).metrics().records
    names = {name for record in records for name in record}
    assert names == LOGGED | {"icl.score", "icl.early", "icl.late"}


def test_tensorboard_groups_them(config):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(config.replace(tensorboard=True, watch=("induction",)), quiet=True)
    scalars = EventAccumulator(str(folder / "tensorboard")).Reload().Scalars("induction/L1H0")
    steps, values = Run(folder).metrics().curve("induction.L1H0")
    assert [each.step for each in scalars] == steps
    assert [each.value for each in scalars] == pytest.approx(values, rel=1e-6)


# --- when something rose


def test_a_logistic_rise_is_found_where_its_formula_says():
    middle, width = 700.0, 40.0
    steps = list(range(0, 2001, 10))
    values = [0.05 + 0.76 / (1 + math.exp(-(step - middle) / width)) for step in steps]
    found = find_rise(steps, values)
    # its ends are 1e-8 from its limits; straight lines between points 10 steps apart are off by (10 / 40)^2 / 8 of a step's slope
    assert (found.first, found.half, found.last) == pytest.approx(
        (middle - width * math.log(9), middle, middle + width * math.log(9)), abs=0.5
    )
    assert found.said() == "rose from 0.05 to 0.81 between steps 612 and 788"


def test_a_straight_fall_and_what_is_no_rise():
    found = find_rise([0, 100], [4.0, 2.0])
    assert (found.first, found.half, found.last) == pytest.approx((10, 50, 90))
    assert found.said() == "fell from 4.00 to 2.00 between steps 10 and 90"
    assert find_rise([0, 1, 2], [1.0, 1.0, 1.0]) is None
    assert find_rise([0, 1, 2, 3], [0.0, 1.0, -1.0, 0.1]) is None
    assert find_rise([0], [1.0]) is None
    assert find_rise([0, 1, 2], [math.nan, 0.0, 1.0]).first == pytest.approx(1.1)


def test_noise_at_the_ends_does_not_widen_the_window():
    steps = [0, 100, 200, 300, 400, 500, 600]
    found = find_rise(steps, [0.0, 0.2, 0.0, 0.0, 1.0, 0.8, 1.0])
    assert (found.first, found.half, found.last) == pytest.approx((310, 350, 390))


def test_windows_overlap_for_as_long_as_both_rise_of_the_time_that_either_does():
    wide, narrow = find_rise([0, 100], [0, 1]), find_rise([0, 60, 110], [0, 0, 1])  # 10 to 90, 65 to 105
    assert wide.overlap(narrow) == narrow.overlap(wide) == pytest.approx((90 - 65) / (105 - 10))
    assert wide.overlap(find_rise([200, 300], [0, 1])) == 0
    assert wide.overlap(wide) == 1
    begins = torch.rand(20_000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([120.0, 160.0])
    shared = (torch.minimum(begins[:, 0] + 80, begins[:, 1] + 40) - begins.max(1).values).clamp(min=0)
    either = torch.maximum(begins[:, 0] + 80, begins[:, 1] + 40) - begins.min(1).values
    assert random_overlap(wide, narrow, 200) == pytest.approx((shared / either).mean().item(), abs=0.01)  # of 20,000 draws


@pytest.fixture
def phase(tmp_path):
    return make_watched_run(tmp_path / "runs" / "phase")


def test_a_run_says_which_head_appeared_when(phase):
    watched = read_watched(Run(phase).metrics())
    assert [family.name for family in watched.families] == ["induction", "previous_token", "icl", "mine"]
    assert watched.summary().split("\n\n") == [
        "induction: L1H1 rose from 0.05 to 0.81 between steps 600 and 1,000.",
        "previous_token: no head rose by 0.1; the highest is L0H0, 0.20 at the end.",
        "icl: score fell from 0.00 to -0.40 between steps 600 and 1,000.",
        "mine rose from 0.00 to 2.00 between steps 200 and 1,800.",
    ]
    assert watched.families[0].ranked == ["L1H1", "L1H0", "L0H1", "L0H0"]
    record = watched.to_dict()["families"][0]
    assert (record["leading"], record["rise"]["step_50_percent"]) == ("L1H1", pytest.approx(800, abs=1))
    assert record["curves"]["L0H1"]["values"] == [0.05] * 41


def test_a_head_that_falls_back_is_said_to_have_risen():
    curve = lambda *values: ([0, 100, 1450, 2500], list(values))  # noqa: E731
    family = WatchedFamily(
        "induction",
        {"L0H0": curve(0.02, 0.02, 0.03, 0.08), "L1H1": curve(0.03, 0.02, 0.19, 0.07), "best": curve(0.03, 0.02, 0.19, 0.08)},
    )
    assert family.said() == "induction: L1H1 rose from 0.03 to 0.19 at step 1,450, and fell back to 0.07."


def test_everything_that_can_be_watched_is_said_where_it_is_asked_for():
    assert tuple(WATCHABLE.names) == EVERYTHING
    assert all(name in (package.train.__doc__ or "") for name in FAMILIES)

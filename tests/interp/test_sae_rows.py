"""Rows that dictionaries learn from come once an epoch, side by side and of stores, and those held out stay unseen."""

from dataclasses import replace
from functools import partial
from itertools import islice

import pytest
import torch

from cutaway import run_with_cache, sae, store
from cutaway.interp.store import collect
from cutaway.interp.store.shards import RowRange
from interp.models import small_model
from interp.small_dictionaries import EXACT, small_config, small_rows, some_rows

# --- sources


def test_rows_in_memory_come_once_an_epoch():
    source = sae.TensorActivations(torch.arange(10.0)[:, None])
    first, *_ = batches = list(source.batches(4, seed=3, n_epochs=2))
    assert [len(batch) for batch in batches] == [4, 4, 2, 4, 4, 2]
    assert torch.cat(batches[:3])[:, 0].sort().values.tolist() == list(range(10))
    assert torch.equal(first, next(source.batches(4, seed=3)))
    assert not torch.equal(torch.cat(batches[:3]), torch.cat(batches[3:]))


def test_a_models_rows_come_once_an_epoch_and_are_those_of_its_runs(tiny_model, make_tokens):
    tokens = make_tokens(batch=30, n_pos=6)
    names = ["blocks.0.attn.z", "blocks.1.mlp_out"]
    source = sae.ModelActivations(tiny_model, tokens, names, first=2, n_buffered=32)
    rows = torch.cat(list(source.batches(8, seed=0)))
    assert rows.shape == (30 * 4, source.d)
    _, cache = run_with_cache(tiny_model, tokens, names)
    expected = torch.cat([cache[names[0]].flatten(2), cache[names[1]]], dim=-1)[:, 2:].flatten(0, 1)
    torch.testing.assert_close(rows[rows[:, 0].argsort()], expected[expected[:, 0].argsort()], atol=EXACT, rtol=0)
    assert not torch.equal(rows, torch.cat(list(source.batches(8, seed=1))))


def side_by_side(kinds, tmp_path):
    """Return two activations of the same rows beside each other, which tell their row in their first coordinate."""
    model = small_model(n_layers=1, d_vocab=200).float()
    tokens = torch.randint(200, (150, 16), generator=torch.Generator().manual_seed(0))
    name, sources = "embed", []
    for number, kind in enumerate(kinds):
        if kind == "runs":
            sources.append(sae.ModelActivations(model, tokens, name, first=0))
            continue
        kept = store.collect(model, tokens, name, tmp_path / str(number), dtype=getattr(torch, kind.removesuffix(" in memory")))
        sources.append(sae.TensorActivations(kept[name][:]) if kind.endswith("in memory") else kept[name])
    return sae.SideBySide(sources)


@pytest.mark.parametrize(
    "kinds",
    [
        ("float32", "float32"),
        ("float32", "bfloat16"),
        ("float32", "float32 in memory"),
        ("bfloat16 in memory", "float32 in memory"),
        ("runs", "runs"),
    ],
)
def test_sources_side_by_side_stay_aligned(kinds, tmp_path):
    """Whatever each is stored in: every row beside its own, once an epoch, in an order that the seed gives."""
    source = side_by_side(kinds, tmp_path)
    batches = list(source.batches(500, seed=3, n_epochs=2))
    assert [len(batch) for batch in batches] == [500, 500, 500, 500, 400] * 2
    first, second = torch.cat(batches).chunk(2, dim=1)
    torch.testing.assert_close(first, second, rtol=2**-7, atol=0)  # as far apart as bfloat16 rounds
    order = torch.cat(batches)[:, 0]
    assert torch.equal(order[:2400].sort().values, order[2400:].sort().values)
    assert not torch.equal(order[:2400], order[2400:])
    assert torch.equal(next(source.batches(500, seed=3)), batches[0])


def test_sources_of_different_rows_are_not_put_side_by_side(tmp_path):
    rows = torch.arange(10.0)[:, None]
    with pytest.raises(ValueError, match="do not have the same rows"):
        sae.SideBySide([sae.TensorActivations(rows), sae.TensorActivations(rows[:7])])
    model, tokens = small_model(), torch.zeros(4, 9, dtype=torch.long)
    runs = sae.ModelActivations(model, tokens, "embed")
    for other in (
        sae.ModelActivations(model, tokens, "embed", n_buffered=512),
        sae.ModelActivations(model, tokens, "embed", first=2),
        sae.ModelActivations(model, tokens + 1, "embed"),
        sae.TensorActivations.of(runs),
    ):
        with pytest.raises(ValueError, match="of ModelActivations come in an order of their own"):
            sae.SideBySide([runs, other])
    with pytest.raises(ValueError, match="rows of SyntheticFeatures come in an order of their own"):
        sae.SideBySide([sae.TensorActivations(rows), sae.SyntheticFeatures.random(4, 2, probability=0.1, seed=0)])


# --- bad input


def test_rows_that_cannot_be_trained_on():
    with pytest.raises(ValueError, match="have 6 coordinates and the dictionary is for 8"):
        sae.train(small_config(), some_rows().float())
    with pytest.raises(ValueError, match="not all finite"):
        sae.train(small_config(), torch.full((20, 8), torch.nan))
    with pytest.raises(ValueError, match="the source gave no rows"):
        sae.train(small_config(), torch.empty(0, 8))


def test_synthetic_rows_have_the_features_they_say():
    known = sae.SyntheticFeatures(torch.eye(20), probability=0.25, n_rows=4000)
    rows = torch.cat(list(islice(known.batches(1000, seed=0), 4)))
    assert ((rows > 0).float().mean() - 0.25).abs() < 0.01  # 80,000 draws: a standard error of 0.0015
    assert rows[rows > 0].min() >= 0.5
    assert rows.max() <= 1.5


class _Stored:
    """A stored activation, as far as training knows one: rows with the axes of heads."""

    def __init__(self, rows):
        self.rows = rows

    @property
    def d(self):
        return self.rows[0].numel()

    def batches(self, batch_size, *, seed, n_epochs=1):
        for _ in range(n_epochs):
            yield from self.rows[torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed))].split(batch_size)


def test_whatever_has_batches_is_trained_on():
    rows = small_rows(100)
    _, flat = sae.train(small_config(), _Stored(rows))
    _, of_heads = sae.train(small_config(), _Stored(rows.unflatten(1, (2, 4))))
    assert flat.points == of_heads.points
    named = _Stored(rows)
    named.name = "blocks.3.resid_post"
    assert sae.train(small_config(name="blocks.3.hook_resid_post"), named)[1].points == flat.points
    with pytest.raises(ValueError, match=r"is for 'blocks.2.resid_post' and the activations are 'blocks.3.resid_post'"):
        sae.train(small_config(name="blocks.2.resid_post"), named)
    with pytest.raises(ValueError, match="rows of _Stored come in an order of their own"):
        sae.SideBySide([_Stored(rows), _Stored(rows[:, :4])])


def test_a_dictionary_knows_what_of_a_store_it_did_not_learn_from(tiny_model, tmp_path):
    ids = torch.randint(31, (400,), generator=torch.Generator().manual_seed(0))
    kept = collect(tiny_model, ids, ["blocks.0.resid_post", "blocks.1.resid_post"], tmp_path / "kept", ctx=10)
    learned, _ = kept["blocks.1.resid_post"].split()
    shape = sae.DictionaryConfig(kind="topk", d_in=16, d_sae=20, k=3, name="blocks.1.resid_post")
    config = sae.SAEConfig(dictionary=shape, n_steps=5, batch_size=20)
    made, curve = sae.train(config, learned)
    assert (
        made.config.trained_on
        == kept.training_data
        == sae.TrainingData(source="token ids", n_tokens=400, n_learned=360, sha256=kept.manifest["data"]["sha256"])
    )
    assert "The text is token ids (400 tokens, of which the last 40 were held out)." in curve.summary()
    again = sae.load_dictionary(sae.save_dictionary(made, tmp_path / "made"))
    assert again.config == made.config

    windows = kept.tokens.of_windows(kept.held_out_windows)
    ask = partial(sae.evaluate, tiny_model, tokens=windows)
    said = ask(again, data=kept.training_data).summary()
    assert said.endswith("Measured on the last 40 of the 400 tokens of token ids, which were held out from training.")
    everything, _ = sae.train(config, kept["blocks.1.resid_post"])
    said = ask(everything, data=kept.training_data).summary()
    assert said.endswith("tokens of token ids, of which the dictionary may have learned from 40.")
    unknown, _ = sae.train(config, learned[:])
    assert unknown.config.trained_on is None
    assert ask(unknown, data=kept.training_data).measured_on.endswith("the dictionary does not say what it learned from.")
    other = replace(kept.training_data, sha256="0", source="other")
    assert "whether these tokens were among them is not known" in ask(made, data=other).measured_on
    assert ask(made).measured_on == ""
    across = sae.DictionaryConfig(kind="topk", d_in=16, d_sae=20, k=3, name="blocks.0.resid_post", target="blocks.1.resid_post")
    sources = sae.SideBySide([kept["blocks.0.resid_post"].split()[0], learned])
    both, _ = sae.train(sae.SAEConfig(dictionary=across, n_steps=3, batch_size=20), sources)
    assert both.config.trained_on == kept.training_data


def test_training_never_sees_rows_that_are_held_out(tiny_model, tmp_path, monkeypatch):
    """Every row that goes into a step or a scale is one of the first part."""
    ids = torch.randint(31, (400,), generator=torch.Generator().manual_seed(0))
    kept = collect(tiny_model, ids, "blocks.1.resid_post", tmp_path / "kept", ctx=10)
    learned, held_out = kept["blocks.1.resid_post"].split()
    asked = []
    span = RowRange.span
    monkeypatch.setattr(RowRange, "span", lambda self, *a, **k: asked.append(self.start + a[1]) or span(self, *a, **k))
    shape = sae.DictionaryConfig(kind="topk", d_in=16, d_sae=20, k=3, name="blocks.1.resid_post")
    sae.train(sae.SAEConfig(dictionary=shape, n_steps=60, batch_size=20), learned)
    assert max(asked) == 360 == len(learned)
    assert len(held_out) == 40

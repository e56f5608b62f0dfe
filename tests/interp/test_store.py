"""The activation store: every row against a plain recorded run, how it is cut, and how it is read back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from cutaway.data import write_shard
from cutaway.hooks import recording
from cutaway.interp import store as stores
from cutaway.interp.sites import hook_names
from cutaway.interp.store import collect, describe_store, estimate, open_store
from cutaway.interp.store.forward import run_until
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.runs import file_sha256
from cutaway.tokenizers import CharTokenizer, tokenizer_hash
from stored_rows import IDS, NAMES, SMALL_SHARDS, expected_rows

LETTERS = "abcdefghijklmnopqrstuvwxyz .,!\n"
TEXT = "to be or not to be, that is the question! " * 4


@pytest.fixture
def lm(tiny_model):
    return LanguageModel(tiny_model, CharTokenizer.fit(LETTERS))


def test_every_row_is_that_of_a_plain_run(tiny_model, tmp_path):
    kept = collect(tiny_model, IDS, NAMES, tmp_path / "kept", ctx=10, batch_size=3, shard_gib=SMALL_SHARDS)
    assert len(list(kept.folder.glob("*.safetensors"))) == 4
    assert kept.names == ("blocks.0.attn.z", "blocks.0.mlp.post", "blocks.1.resid_mid")
    assert kept.n_tokens == len(IDS)
    for name in kept.names:
        # float64, the same operations on the same shapes but for the batch: sums may be ordered otherwise
        torch.testing.assert_close(kept[name][:], expected_rows(tiny_model, IDS, name, ctx=10), rtol=0, atol=1e-12)
    assert kept["blocks.0.attn.hook_z"].shape == (117, 4, 4)
    assert kept["blocks.0.attn.z"].dtype == torch.float64
    assert torch.equal(kept.tokens[:], IDS)
    assert torch.equal(kept.tokens.windows(), torch.arange(117) // 10)
    assert torch.equal(kept.tokens.positions(torch.tensor([0, 9, 10, -1])), torch.tensor([0, 9, 0, 6]))


def test_the_first_position_may_be_left_out(tiny_model, tmp_path):
    ids = IDS[:91]  # the last window is one token, which has no row
    kept = collect(tiny_model, ids, "blocks.*.resid_post", tmp_path / "kept", ctx=10, skip_first=True, batch_size=2)
    rows = expected_rows(tiny_model, ids[:90], "blocks.1.resid_post", ctx=10).view(9, 10, -1)[:, 1:].flatten(0, 1)
    torch.testing.assert_close(kept["blocks.1.resid_post"][:], rows, rtol=0, atol=1e-12)
    assert kept.n_tokens == len(kept.tokens) == 81
    assert torch.equal(kept.tokens[:], ids[:90].view(9, 10)[:, 1:].flatten())
    assert torch.equal(kept.tokens.windows(), torch.arange(9).repeat_interleave(9))
    assert torch.equal(kept.tokens.positions(), torch.arange(1, 10).repeat(9))


def test_a_last_window_that_is_short_leaves_out_its_first_position_too(tiny_model, tmp_path):
    kept = collect(tiny_model, IDS[:93], "embed", tmp_path / "kept", ctx=10, skip_first=True, batch_size=2)
    assert kept.n_tokens == 9 * 9 + 2
    assert torch.equal(kept.tokens[-2:], IDS[91:93])
    ids, place = kept.tokens.context(-2, before=5, after=5)
    assert (ids.tolist(), place) == (IDS[90:93].tolist(), 1)  # what was left out is still to be read around a row


def test_rows_of_tokens_are_windows(tiny_model, make_tokens, tmp_path):
    tokens = make_tokens(5, 7)
    kept = collect(tiny_model, tokens, "blocks.1.mlp.pre", tmp_path / "kept", batch_size=2)
    hooks, seen = recording("blocks.1.mlp.pre")
    tiny_model(tokens, hooks=hooks)
    torch.testing.assert_close(kept["blocks.1.mlp.pre"][:], seen["blocks.1.mlp.pre"].flatten(0, 1), rtol=0, atol=1e-12)
    assert torch.equal(kept.tokens.windows(), torch.arange(5).repeat_interleave(7))
    with pytest.raises(ValueError, match="ctx is 3 and the tokens come in rows of 7"):
        collect(tiny_model, tokens, "embed", tmp_path / "other", ctx=3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_rows_are_rounded_once(tiny_model, tmp_path, dtype):
    kept = collect(tiny_model, IDS, "blocks.1.resid_post", tmp_path / "kept", ctx=10, batch_size=4, dtype=dtype)
    whole = collect(tiny_model, IDS, "blocks.1.resid_post", tmp_path / "whole", ctx=10, batch_size=4)
    x = kept["blocks.1.resid_post"]
    assert x.dtype == x[3].dtype == dtype
    assert torch.equal(x[:], whole["blocks.1.resid_post"][:].to(dtype))
    assert torch.equal(x[torch.tensor([7, 0, 116, 7])], x[:][[7, 0, 116, 7]])
    mean = whole["blocks.1.resid_post"][:].to(dtype).double().mean(0)
    torch.testing.assert_close(
        x.mean().double(), mean, rtol=0, atol=1e-12 if dtype == torch.float64 else 1e-6
    )  # float32's last bit


def test_every_name_can_be_stored_in_every_kind_of_model(variant, make_model, make_tokens, tmp_path):
    model, tokens = make_model(variant), make_tokens(3, 6)
    names = [name for name in hook_names(variant) if not name.endswith(("pattern", "attn_scores"))]
    kept = collect(model, tokens, names, tmp_path / "kept", batch_size=2)
    hooks, seen = recording(*names)
    with torch.no_grad():
        model(tokens, hooks=hooks)
    assert kept.names == tuple(names)
    for name in names:
        rows = seen[name].expand(3, *seen[name].shape[-2:]) if name == "pos_embed" else seen[name]
        torch.testing.assert_close(kept[name][:], rows.flatten(0, 1), rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", ["embed", "blocks.0.mlp.post", "blocks.1.resid_pre", "logits"])
def test_the_run_ends_at_the_last_activation_wanted(tiny_model, tokens, monkeypatch, name):
    seen = []
    order = hook_names(tiny_model.config)
    for block in tiny_model.blocks:
        block.register_forward_hook(lambda *_: seen.append("a block"))
    tiny_model.unembed.register_forward_hook(lambda *_: seen.append("the logits"))
    run_until(tiny_model, tokens, dict.fromkeys({"embed", name}, lambda x, full: seen.append(full)))
    assert [each for each in seen if each in order] == sorted({"embed", name}, key=order.index)
    assert seen.count("a block") == {"embed": 0, "blocks.0.mlp.post": 0, "blocks.1.resid_pre": 1, "logits": 2}[name]
    assert "the logits" not in seen  # an unembedding that is wanted ends within itself


def test_reading_is_indexing(tiny_model, tmp_path):
    kept = collect(tiny_model, IDS, NAMES, tmp_path / "kept", ctx=10, batch_size=3, shard_gib=SMALL_SHARDS)
    x = kept["blocks.0.attn.z"]
    whole = torch.cat([load_file(path)["blocks.0.attn.z"] for path in sorted(kept.folder.glob("*.safetensors"))])
    assert (len(x), x.shape, x.d) == (117, whole.shape, 16)
    assert torch.equal(x[:], whole)
    places = torch.randint(-117, 117, (300,), generator=torch.Generator().manual_seed(0))
    assert torch.equal(x[places], whole[places])
    for index in (0, -1, 29, 30, slice(25, 95), slice(None, None, 7), slice(100, 10), slice(-5, None)):
        assert torch.equal(x[index], whole[index])
    assert torch.equal(x[90:5:-3], whole[list(range(90, 5, -3))])
    flat = x.flattened()
    assert (flat.shape, flat.d) == ((117, 16), 16)
    assert torch.equal(flat[30:33], whole[30:33].flatten(1))
    assert torch.equal(flat[4], whole[4].flatten())
    torch.testing.assert_close(flat.mean(), whole.flatten(1).mean(0), rtol=0, atol=1e-12)
    for wrong in (117, -118, torch.tensor([3, 117])):
        with pytest.raises(IndexError, match=r"there is no row 117|there is no row -118"):
            x[wrong]
    ids, place = kept.tokens.context(35, before=3, after=10)
    assert (ids.tolist(), place) == (IDS[32:40].tolist(), 3)  # not beyond its window


def test_rows_are_asked_for_by_number(tiny_model, tmp_path, without_type_checks):
    x = collect(tiny_model, IDS, "embed", tmp_path / "kept", ctx=10)["embed"]
    for wrong in (torch.zeros(117, dtype=torch.bool), torch.zeros(2, 2).long(), torch.tensor([0.5])):
        with pytest.raises(IndexError, match="expected their numbers"):
            x[wrong]


def test_shuffled_batches_hold_every_row_once_an_epoch(tiny_model, tmp_path, monkeypatch):
    from cutaway.interp.store import shuffling

    ids = IDS.clone()
    ids[::10] = torch.arange(12)  # no two rows are alike, those of a window's first token neither
    kept = collect(tiny_model, ids, NAMES, tmp_path / "kept", ctx=10, batch_size=3, shard_gib=SMALL_SHARDS)
    x = kept["blocks.1.resid_mid"]
    monkeypatch.setattr(shuffling, "_BLOCK_BYTES", 5 * 16 * 8)  # blocks of 5 rows, some across two shards
    monkeypatch.setattr(shuffling, "_BUFFER_BYTES", 20 * 16 * 8)
    batches = list(x.batches(16, seed=3, n_epochs=2))
    assert [len(batch) for batch in batches] == [16] * 7 + [5] + [16] * 7 + [5]
    first, second = torch.cat(batches[:8]), torch.cat(batches[8:])
    assert not torch.equal(first, second)

    def order(rows: Tensor) -> list[int]:
        """Which row of the store each is; no two are alike."""
        distances = (rows[:, None] - x[:][None]).abs().sum(-1)
        assert (distances.min(dim=1).values == 0).all()
        return distances.argmin(dim=1).tolist()

    assert sorted(order(first)) == sorted(order(second)) == list(range(117))
    neighbours = sum(abs(a - b) == 1 for a, b in zip(order(first), order(first)[1:], strict=False))
    assert neighbours < 40  # of 116; a stretch read as it lies has all
    assert torch.equal(torch.cat(list(x.batches(16, seed=3))), first)
    assert not torch.equal(torch.cat(list(x.batches(16, seed=4))), first)
    assert [len(batch) for batch in x.batches(500, seed=0)] == [117]
    assert next(iter(kept["blocks.0.attn.z"].flattened().batches(8, seed=0))).shape == (8, 16)
    with pytest.raises(ValueError, match="batch_size is 0"):
        x.batches(0, seed=0)


@pytest.mark.parametrize("skip_first", [False, True])
def test_the_last_tenth_of_the_windows_is_held_out(tiny_model, tmp_path, skip_first):
    kept = collect(tiny_model, IDS, NAMES, tmp_path / "kept", ctx=5, batch_size=3, skip_first=skip_first, shard_gib=SMALL_SHARDS)
    name, per_window = kept.names[2], 5 - skip_first
    learned, held_out = kept[name].split()
    assert len(learned) == 21 * per_window  # 117 tokens: the first 105 are 21 windows, and the 22nd reaches into the last tenth
    assert torch.equal(torch.cat([learned[:], held_out[:]]), kept[name][:])
    assert torch.equal(held_out[torch.tensor([3, 0])], kept[name][torch.tensor([len(learned) + 3, len(learned)])])
    for part in (learned, held_out):
        epoch = torch.cat(list(part.batches(7, seed=1)))
        assert torch.equal(epoch[epoch[:, 0].argsort()], part[:][part[:][:, 0].argsort()])
    assert torch.equal(held_out.mean(), held_out[:].mean(0))
    z, _ = kept[kept.names[0]].split()
    assert z.flattened().shape == (21 * per_window, 16)
    assert torch.equal(z.flattened()[:], z[:].flatten(1))

    data = kept.training_data
    assert (data.n_tokens, data.n_learned, data.sha256) == (117, 105, kept.manifest["data"]["sha256"])
    assert learned.training_data == z.flattened().training_data == data
    assert held_out.training_data is None
    assert kept[name].training_data.n_learned == 117
    assert kept.held_out_windows == range(21, 24)
    assert torch.equal(kept.tokens.of_windows(kept.held_out_windows), IDS[105:115].view(2, 5))  # the last has 2 tokens
    assert kept.tokens.windows()[len(learned)] == 21
    with pytest.raises(ValueError, match="a part of a store already"):
        learned.split()


def test_a_store_of_one_window_has_none_to_hold_out(tiny_model, tmp_path):
    kept = collect(tiny_model, IDS[:10], NAMES, tmp_path / "kept", ctx=10)
    with pytest.raises(ValueError, match="10 rows in too few windows to hold some out: collect more tokens"):
        kept[kept.names[0]].split()


def test_text_files_and_shards_of_it_give_the_same_rows(lm, tmp_path, monkeypatch):
    monkeypatch.setenv("CUTAWAY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text(TEXT)
    ids = np.asarray(lm.tokenizer.encode(TEXT))
    manifest = {"tokenizer_sha256": tokenizer_hash(lm.tokenizer)}
    for part, some in enumerate((ids[:50], ids[50:])):
        write_shard(tmp_path / "shards" / f"{part}.bin", some, d_vocab=31, manifest=manifest)
    made = {
        "text": TEXT,
        "file": tmp_path / "text" / "a.txt",
        "folder": str(tmp_path / "text"),
        "glob": str(tmp_path / "text" / "*.txt"),
        "list": [tmp_path / "text" / "a.txt"],
        "shards": tmp_path / "shards",
        "shard glob": str(tmp_path / "shards" / "*.bin"),
        "shard list": [tmp_path / "shards" / "0.bin", tmp_path / "shards" / "1.bin"],
        "tensor": torch.from_numpy(ids),
    }
    hashes = set()
    for name, data in made.items():
        kept = collect(lm, data, "blocks.0.resid_post", tmp_path / "made" / name, ctx=12, batch_size=4, max_tokens=150)
        assert kept.n_tokens == 150
        hashes.add((kept.manifest["data"]["sha256"], file_sha256(kept.folder / "shard-00000.safetensors")))
    assert len(hashes) == 1
    assert lm.text(kept.tokens[:20]) == TEXT[:20]


def test_the_manifest_says_what_it_is(lm, tmp_path):
    kept = collect(lm, TEXT, ["blocks.1.hook_resid_post"], tmp_path / "kept", ctx=12, dtype=torch.bfloat16, source="tiny")
    found = json.loads((tmp_path / "kept" / "manifest.json").read_text())
    assert found["model"]["source"] == "tiny"
    assert found["model"]["config"] == lm.config.to_dict()
    assert found["tokenizer"] == {"kind": "char", "sha256": tokenizer_hash(lm.tokenizer)}
    assert (found["dtype"], found["n_rows"], found["layout"]["n_ctx"]) == ("bfloat16", len(TEXT), 12)
    assert found["activations"] == {"blocks.1.resid_post": [16]}
    assert found["machine"]["torch"] == torch.__version__
    assert found["shards"]["0"]["sha256"] == file_sha256(tmp_path / "kept" / "shard-00000.safetensors")
    assert "blocks.1.resid_post" in kept
    assert "blocks.0.resid_post" not in kept
    kept.check_model(lm)
    kept.verify()
    assert repr(kept["blocks.1.resid_post"]) == f"StoredActivation('blocks.1.resid_post', [{len(TEXT)}, 16], bfloat16)"


def test_the_estimate_is_the_size_of_what_is_written(lm, tmp_path):
    options = {"ctx": 12, "dtype": torch.float32, "batch_size": 2, "skip_first": True}
    expected = estimate(lm, TEXT, NAMES, shard_gib=SMALL_SHARDS, **options)
    assert not list(tmp_path.iterdir())
    kept = collect(lm, TEXT, NAMES, tmp_path / "kept", shard_gib=SMALL_SHARDS, **options)
    headers = sum(8 + int.from_bytes(path.read_bytes()[:8], "little") for path in kept.folder.glob("*.safetensors"))
    assert expected.gib * 2**30 == pytest.approx(kept.gib * 2**30 - headers, abs=1e-3)
    assert (expected.n_rows, expected.n_tokens, expected.n_shards) == (kept.n_tokens, len(TEXT), kept.plan.n_shards)
    assert expected.time_s > 0
    assert expected.tokens_per_s == pytest.approx(expected.n_tokens / expected.time_s)
    assert f"{kept.n_tokens:,} rows of 3 activations, from {len(TEXT)} tokens of a text" in expected.summary()


def test_contents_are_lengths_by_position(tiny_model, tmp_path):
    kept = collect(tiny_model, IDS, "blocks.0.attn.z", tmp_path / "kept", ctx=10, batch_size=3)
    found = describe_store(kept)
    rows = expected_rows(tiny_model, IDS[:110], "blocks.0.attn.z", ctx=10).flatten(1).view(11, 10, -1)
    torch.testing.assert_close(
        torch.tensor(found.lengths["blocks.0.attn.z"], dtype=torch.float64), rows.norm(dim=-1).mean(0), rtol=0, atol=1e-12
    )
    assert found.n_windows == 11
    assert json.loads(found.to_json())["shapes"] == {"blocks.0.attn.z": [4, 4]}
    assert len(found.figures()) == 1


def test_a_model_that_trains_is_run_without_dropout_and_left_as_it_was(tiny_config, tmp_path):
    model = Transformer(tiny_config.replace(dropout=0.5), generator=torch.Generator().manual_seed(0)).train()
    kept = [collect(model, IDS, "blocks.1.resid_post", tmp_path / str(n), ctx=10)["blocks.1.resid_post"][:] for n in (0, 1)]
    assert torch.equal(*kept)
    assert model.training


def test_public_names_are_reached_from_cutaway():
    import cutaway

    assert cutaway.store is stores


def test_a_store_read_from_elsewhere_needs_no_model(tiny_model, tmp_path):
    collect(tiny_model, IDS, "embed", tmp_path / "kept", ctx=10)
    (tmp_path / "kept").rename(tmp_path / "moved")
    assert torch.equal(open_store(tmp_path / "moved")["hook_embed"][3], tiny_model.embed.W_E[IDS[3]])
    assert isinstance(open_store(str(tmp_path / "moved")).folder, Path)

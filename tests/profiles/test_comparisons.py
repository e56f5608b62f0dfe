"""Works measured beside stand-ins for other programs; the numbers of all must agree, and the times be of what they say."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from cutaway import presets, profiles
from cutaway.config import ModelConfig
from cutaway.measure import Limits
from cutaway.model import Transformer
from cutaway.profiles import Bench, Comparison, Peers, Request, open_peers
from cutaway.profiles.hugging_face import HuggingFace
from cutaway.profiles.nanogpt import NanoGPT
from cutaway.profiles.transformer_lens import TransformerLens
from cutaway.weights.nanogpt import nanogpt_tensors
from cutaway.weights.transformer_lens import transformer_lens_tensors
from stand_ins import LENS, NANOGPT, write_lens_python, write_nanogpt

TINY = {"d_vocab": 40, "n_ctx": 24, "n_layers": 2, "n_heads": 4, "d_model": 16}
NO_BIASES = {**TINY, "act": "gelu", "norm_bias": False, "attn_bias": False, "mlp_bias": False}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny shapes with names, nothing compiled, and limits that are known: 100 GFLOP/s and 10 GB/s."""
    monkeypatch.setitem(presets.MODEL_PRESETS, "tiny", TINY)
    monkeypatch.setitem(presets.MODEL_PRESETS, "tiny-long", {**TINY, "n_ctx": 40})
    monkeypatch.setitem(presets.MODEL_PRESETS, "tiny-without-biases", NO_BIASES)
    monkeypatch.setattr("cutaway.profiles.bench.measure_limits", lambda *_, **__: Limits(100.0, 10.0))
    for module in ("cutaway.profiles.train", "cutaway.profiles.decode", "cutaway.measure.decoding"):
        monkeypatch.setattr(f"{module}.compile_obstacle", lambda _: "spared")


@pytest.fixture(scope="module")
def lens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TransformerLens]:
    with TransformerLens(write_lens_python(tmp_path_factory.mktemp("lens"))) as opened:
        yield opened


def bench(peers: Peers | None = None, *, n_rounds: int = 1) -> tuple[Bench, list[str]]:
    said: list[str] = []
    return Bench(device=torch.device("cpu"), peers=peers or Peers(), n_rounds=n_rounds, tell=said.append), said


def comparison(**changes: object) -> Comparison:
    values = {
        "work": "train", "case": "c", "length": 8, "unit": "tokens", "n_units": 100, "ours": {"a": 2.0, "b": 0.5},
        "peers": {"p": 1.0, "q": 4.0}, "limit": "l", "limit_s": 0.25, "agreement": {"p": 0.0},
    }  # fmt: skip
    return Comparison(**{**values, **changes})


def test_rates_ratios_and_shares() -> None:
    found = comparison()
    assert (found.best_s, found.best_peer_s) == (0.5, 1.0)
    assert {name: found.per_s(name) for name in found.times_s} == {"a": 50.0, "b": 200.0, "p": 100.0, "q": 25.0}
    assert {name: found.ratio(name) for name in found.times_s} == {"a": 0.5, "b": 2.0, "p": 1.0, "q": 0.25}
    assert found.share("b") == 0.5
    record = found.record()
    assert record["programs"]["b"] == {
        "is_peer": False, "time_s": 0.5, "tokens_per_s": 200.0, "times_the_better_peer": 2.0, "share_of_limit": 0.5,
    }  # fmt: skip
    assert comparison(peers={}).ratio("b") is None


def test_training_beside_nanogpt(tmp_path: Path) -> None:
    run, said = bench(Peers(nanogpt=NanoGPT(write_nanogpt(tmp_path / "clone"))))
    (found,) = profiles.compare_training(run, Request(preset="tiny-without-biases", batch=3, dtype=torch.float32))
    assert set(found.ours) == {"float32, as it is"}
    assert set(found.peers) == {"nanoGPT, as it is"}
    assert (found.n_units, found.length) == (3 * 24, 24)
    assert found.agreement["nanoGPT, as it is"] < 1e-6  # float32
    weights = 2 * 12 * 16**2 + 40 * 16
    flops = 3 * 3 * (2 * 24 * weights + 2 * 4 * 16 * 24**2)
    assert found.flops == flops
    assert found.limit_s == pytest.approx(flops / 100e9)
    assert not said


def test_a_tanh_gelu_is_made_exact_for_both(tmp_path: Path) -> None:
    run, _ = bench(Peers(nanogpt=NanoGPT(write_nanogpt(tmp_path / "clone"))))
    (found,) = profiles.compare_training(run, Request(preset="tiny", batch=2, length=8, dtype=torch.float32))
    assert found.agreement["nanoGPT, as it is"] < 1e-6


def test_a_nanogpt_that_computes_something_else_is_not_compared(tmp_path: Path) -> None:
    source = NANOGPT.replace("ACTIVATION = F.gelu", "ACTIVATION = F.relu")
    run, _ = bench(Peers(nanogpt=NanoGPT(write_nanogpt(tmp_path / "clone", source))))
    with pytest.raises(RuntimeError, match=r"^nanoGPT computes something else: with the same weights its numbers are .* from ours"):
        profiles.compare_training(run, Request(preset="tiny-without-biases", batch=2, dtype=torch.float32))


def test_shapes_that_nanogpt_has_not_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.MODEL_PRESETS, "tiny-rotary", {**TINY, "position": "rotary"})
    run, said = bench(Peers(nanogpt=NanoGPT(write_nanogpt(tmp_path / "clone"))))
    (found,) = profiles.compare_training(run, Request(preset="tiny-rotary", batch=2, length=8))
    assert not found.peers
    assert "nanoGPT is left out: it has shapes like GPT-2's alone" in said


def test_nanogpt_is_stepped_as_it_would_step_itself(tmp_path: Path) -> None:
    """Two batches through our loop and through a loop written here, from the same weights: the same weights."""
    nanogpt = NanoGPT(write_nanogpt(tmp_path / "clone"))
    config = ModelConfig(**NO_BIASES)
    model = Transformer(config, generator=torch.Generator().manual_seed(0))
    from cutaway.training import TrainConfig

    recipe = TrainConfig(model=config)
    batches = [tuple(torch.randint(40, (2, 2, 8), generator=torch.Generator().manual_seed(seed))) for seed in (1, 2)]
    mine, theirs = nanogpt.model(model), nanogpt.model(model)
    nanogpt.steps(theirs, recipe, batches, compile=False)()
    optimizer = torch.optim.AdamW(mine.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    for inputs, targets in batches:
        optimizer.zero_grad()
        mine(inputs, targets)[1].backward()
        torch.nn.utils.clip_grad_norm_(mine.parameters(), 1.0)
        optimizer.step()
    for weight, other in zip(mine.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(weight, other)
    assert not torch.equal(mine.lm_head.weight, model.embed.W_E)


def test_a_pass_beside_the_others(lens: TransformerLens) -> None:
    run, said = bench(Peers(has_transformers=HuggingFace.is_installed(), transformer_lens=lens))
    (found,) = profiles.compare_forward(run, Request(preset="tiny", batch=2, length=9))
    assert set(found.peers) == {"transformers", "TransformerLens"}
    assert max(found.agreement.values()) < 1e-5  # float32
    assert found.n_units == 18
    assert min(found.times_s.values()) > 0
    assert not said


def test_transformers_without_such_a_model_is_told(lens: TransformerLens) -> None:
    run, said = bench(Peers(has_transformers=True, transformer_lens=lens))
    (found,) = profiles.compare_forward(run, Request(preset="attn-only-1l", batch=1, length=4))
    assert not found.peers
    assert [sentence.partition(":")[0] for sentence in said] == ["transformers is left out", "TransformerLens is left out"]


def test_sweeps_beside_transformer_lens_are_cell_by_cell_the_same(lens: TransformerLens) -> None:
    run, _ = bench(Peers(transformer_lens=lens))
    grid, heads = profiles.compare_sweeps(run, Request(preset="tiny", length=6, dtype=torch.float64))
    assert (grid.n_units, heads.n_units) == (2 * 6, 2 * 4)
    for found in (grid, heads):
        assert set(found.times_s) == {"cutaway", "TransformerLens"}
        assert found.agreement["TransformerLens"] < 1e-12  # float64
        assert found.limit_s == pytest.approx(found.flops / 100e9)


def test_without_transformer_lens_a_sweep_is_held_against_whole_passes() -> None:
    run, _ = bench()
    grid, _ = profiles.compare_sweeps(run, Request(preset="tiny", length=5))
    assert set(grid.ours) == {"cutaway", "one pass a cell"}
    assert not grid.peers
    assert grid.agreement["one pass a cell"] < 1e-5  # float32


def test_another_order_of_cells_is_found_out(tmp_path: Path) -> None:
    python = write_lens_python(tmp_path)
    patching = tmp_path / "site/transformer_lens/patching.py"
    patching.write_text(patching.read_text().replace(".reshape(model.cfg.n_layers, n)", ".flip(0).reshape(model.cfg.n_layers, n)"))
    with open_peers(transformer_lens=python) as peers:
        run, _ = bench(peers)
        with pytest.raises(RuntimeError, match=r"^TransformerLens computes something else"):
            profiles.compare_sweeps(run, Request(preset="tiny", length=6))


def test_decoding_beside_transformers() -> None:
    run, said = bench(Peers(has_transformers=True), n_rounds=3)
    found = profiles.compare_decoding(run, Request(preset="tiny-long", compile=True))
    assert [each.length for each in found] == [8, 32]
    for each in found:
        assert set(each.ours) == {"without the cache", "with the cache"}
        assert set(each.peers) == {"transformers"}
        assert each.agreement["transformers"] < 1e-5  # float32
    n_bytes = 4 * (2 * 12 * 16**2 + 40 * 16)
    cached = [2 * 2 * 16 * length * 4 for length in (8, 32)]
    assert said == ["spared, so the compiled step is left out"]
    for each, n_cached in zip(found, cached, strict=True):
        rate = float(each.limit.removeprefix("weights read at ").removesuffix(" GB/s")) * 1e9
        assert each.limit_s == pytest.approx((n_bytes + n_cached) / rate, rel=0.01)  # the rate is printed in three digits


def test_a_length_that_the_model_does_not_read_is_a_sentence() -> None:
    run, _ = bench()
    with pytest.raises(ValueError, match=r"^the length is 25; this model reads 1 to 24 tokens$"):
        profiles.compare_forward(run, Request(preset="tiny", length=25))
    with pytest.raises(
        ValueError, match=r"^the length is 22; expected 1 to 21, as this model reads 24 tokens and some are to follow$"
    ):
        profiles.compare_decoding(run, Request(preset="tiny", length=22))


def test_weights_for_nanogpt_have_its_names_and_shapes(tmp_path: Path) -> None:
    model = Transformer(ModelConfig(**NO_BIASES), generator=torch.Generator().manual_seed(0))
    theirs = NanoGPT(write_nanogpt(tmp_path / "clone")).model(model).state_dict()
    made = nanogpt_tensors(model)
    assert made.keys() == theirs.keys() - {"lm_head.weight"}
    assert all(made[name].shape == theirs[name].shape for name in made)


def test_weights_for_transformer_lens_come_back_from_its_file(variant: ModelConfig, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from cutaway.weights import read_model
    from cutaway.weights.transformer_lens import TransformerLensState

    model = Transformer(variant, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.01)  # zeros and ones may be left out
    save_file(transformer_lens_tensors(model), tmp_path / "state.safetensors")
    again = read_model(TransformerLensState(tmp_path / "state.safetensors", variant))
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_a_program_that_fails_says_with_what(tmp_path: Path) -> None:
    broken = LENS.replace("return self.run(tokens)[0]", "raise KeyError('blocks.7')")
    with open_peers(transformer_lens=write_lens_python(tmp_path, lens=broken)) as peers:
        run, _ = bench(peers)
        with pytest.raises(RuntimeError, match=r"^TransformerLens could not do 'logits': KeyError: 'blocks.7'$"):
            profiles.compare_forward(run, Request(preset="tiny", length=5))


def test_a_program_that_dies_says_its_last_words(tmp_path: Path) -> None:
    dying = LENS.replace(
        "return self.run(tokens)[0]", "import os, sys; print('out of luck', file=sys.stderr, flush=True); os._exit(3)"
    )
    with open_peers(transformer_lens=write_lens_python(tmp_path, lens=dying)) as peers:
        run, _ = bench(peers)
        with pytest.raises(RuntimeError, match=r"^TransformerLens's process ended while it did 'logits' \(out of luck\)$"):
            profiles.compare_forward(run, Request(preset="tiny", length=5))


def test_what_is_absent_is_said_with_how_to_give_it(lens: TransformerLens) -> None:
    assert Peers().absent("train") == ["nanoGPT is left out: give a clone of it by --nanogpt DIR"]
    assert [sentence.partition(" ")[0] for sentence in Peers().absent("forward", "sweep")] == ["transformers", "TransformerLens"]
    assert not Peers(transformer_lens=lens).absent("sweep")


def test_versions_name_the_clone_s_commit_or_its_hash(tmp_path: Path, lens: TransformerLens) -> None:
    nanogpt = NanoGPT(write_nanogpt(tmp_path / "clone"))
    found = Peers(nanogpt=nanogpt, transformer_lens=lens).versions()
    assert found["nanoGPT"].startswith("model.py of sha256 ")
    assert found["TransformerLens"] == "2.99"

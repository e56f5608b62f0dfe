"""What is compared on a GPU, and how fast it is there."""

import os
from pathlib import Path

import pytest
import torch

from cutaway import profiles
from cutaway.config import ModelConfig
from cutaway.costs import forward_peak_bytes, step_peak_bytes
from cutaway.measure import peak_bytes
from cutaway.model import Transformer
from cutaway.profiles import Bench, Peers, Request, open_peers
from cutaway.profiles.hugging_face import HuggingFace
from cutaway.profiles.nanogpt import NanoGPT
from cutaway.training.step import next_token_loss
from stand_ins import write_lens_python


def on_device(**peers: object) -> Bench:
    return Bench(device=torch.device("cuda"), peers=Peers(**peers), n_rounds=2)


@pytest.fixture
def nanogpt() -> NanoGPT:
    if "NANOGPT" not in os.environ:
        pytest.skip("needs a clone of nanoGPT: name its folder in the environment variable NANOGPT")
    return NanoGPT(os.environ["NANOGPT"])


def test_a_pass_and_decoding_agree_with_transformers() -> None:
    run = on_device(has_transformers=HuggingFace.is_installed())
    for dtype in (torch.float32, torch.bfloat16):
        (found,) = profiles.compare_forward(run, Request(batch=2, length=64, dtype=dtype))
        assert found.agreement.keys() == {"transformers"}
        (found,) = profiles.compare_decoding(run, Request(length=16, dtype=dtype, compile=True))
        assert found.ours.keys() == {"without the cache", "with the cache", "compiled"}


def test_sweeps_are_whole_passes() -> None:
    for found in profiles.compare_sweeps(on_device(), Request(preset="gpt2", length=6, dtype=torch.float64)):
        assert found.agreement["one pass a cell"] < 1e-10  # float64, sums in another order


def test_a_process_of_another_python_computes_there_too(tmp_path: Path) -> None:
    with open_peers(transformer_lens=write_lens_python(tmp_path)) as peers:
        run = Bench(device=torch.device("cpu"), peers=peers, n_rounds=1)  # the stand-in knows no GPU
        assert profiles.compare_forward(run, Request(batch=1, length=8))[0].peers


def test_activations_take_what_is_said() -> None:
    config = ModelConfig(d_vocab=5000, n_ctx=1024, n_layers=4, n_heads=4, d_model=256)
    model = Transformer(config).to("cuda")
    tokens = torch.randint(config.d_vocab, (1, 1024), device="cuda")
    with torch.inference_mode():
        model(tokens)  # what libraries keep for themselves is there from then on
        forward = peak_bytes(lambda: model(tokens), device="cuda")
    # the allocator rounds up, and kernels of a GPU take some memory for themselves
    assert forward == pytest.approx(forward_peak_bytes(config, 1024), rel=0.15)
    next_token_loss(model, tokens, tokens).backward()
    model.zero_grad(set_to_none=True)
    step = peak_bytes(lambda: next_token_loss(model, tokens, tokens).backward(), device="cuda")
    assert step == pytest.approx(step_peak_bytes(config, 1024), rel=0.15)


def test_growth_is_measured_at_every_length() -> None:
    growth = profiles.measure_growth(on_device(), lengths=(256, 1024))
    assert all(cost.forward_s and cost.step_s for cost in growth.lengths)
    (small,) = [size for size in growth.sizes if size.name == "gpt2"]
    assert small.measured_train_state_bytes == small.train_state_bytes


@pytest.mark.slow
def test_training_is_faster_than_nanogpt(nanogpt: NanoGPT) -> None:
    """A benchmark: GPT-2's smallest size, both compiled, in bfloat16, on the same batches."""
    (found,) = profiles.compare_training(Bench(device=torch.device("cuda"), peers=Peers(nanogpt=nanogpt)), Request())
    ratio = found.ratio("bfloat16, compiled")
    assert ratio is not None
    assert ratio >= 1.15, found.record()["programs"]


@pytest.mark.slow
def test_decoding_is_faster_than_transformers() -> None:
    """A benchmark: GPT-2's smallest size, one row, in bfloat16."""
    run = Bench(device=torch.device("cuda"), peers=Peers(has_transformers=HuggingFace.is_installed()))
    (found,) = profiles.compare_decoding(run, Request(length=32, dtype=torch.bfloat16, compile=True))
    ratio = found.ratio("compiled")
    assert ratio is not None
    assert ratio >= 1, found.record()["programs"]

"""nanoGPT's checkpoints: the same logits as transformers' GPT-2 with the same weights, and what does not fit is named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cutaway.weights.nanogpt import NanoGPTCheckpoint
from cutaway.weights.source import read_model

transformers = pytest.importorskip("transformers", reason="transformers, the oracle here, is not installed")

# float64 keeps 16 digits; three layers in another order differ by 1e-14. A wrong activation or epsilon shows at 1e-7 or above.
TOLERANCE = 1e-9

MODEL_ARGS: dict[str, Any] = {
    "n_layer": 3,
    "n_head": 4,
    "n_embd": 24,
    "block_size": 16,
    "bias": True,
    "vocab_size": 29,
    "dropout": 0.1,
}


def nanogpt_state(args: dict[str, Any], *, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Draw a checkpoint's weights in nanoGPT's names and layouts."""
    generator = torch.Generator().manual_seed(0)
    d_model = args["n_embd"]

    def draw(*shape: int, centre: float = 0.0) -> Tensor:
        return (centre + 0.3 * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype)

    state = {"transformer.wte.weight": draw(args["vocab_size"], d_model)}
    state["transformer.wpe.weight"] = draw(args["block_size"], d_model)
    linears = {"attn.c_attn": (3 * d_model, d_model), "attn.c_proj": (d_model, d_model)}
    linears |= {"mlp.c_fc": (4 * d_model, d_model), "mlp.c_proj": (d_model, 4 * d_model)}
    norms = [f"transformer.h.{layer}.{norm}" for layer in range(args["n_layer"]) for norm in ("ln_1", "ln_2")]
    for norm in [*norms, "transformer.ln_f"]:
        state[f"{norm}.weight"] = draw(d_model, centre=1.0)
        state |= {f"{norm}.bias": draw(d_model)} if args["bias"] else {}
    for layer in range(args["n_layer"]):
        for name, shape in linears.items():
            state[f"transformer.h.{layer}.{name}.weight"] = draw(*shape)
            state |= {f"transformer.h.{layer}.{name}.bias": draw(shape[0])} if args["bias"] else {}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    return state


def save_checkpoint(path: Path, state: dict[str, Tensor], args: dict[str, Any], **more: Any) -> Path:
    about = {"iter_num": 2000, "best_val_loss": torch.tensor(1.46971), "config": {"dataset": "a", "lr": 1e-3, "compile": True}}
    optimizer = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    torch.save({"model": state, "optimizer": optimizer, "model_args": args, **about, **more}, path)
    return path


def transformers_gpt2(state: dict[str, Tensor], args: dict[str, Any]) -> nn.Module:
    """Give the transformers library's GPT-2 the same weights; its Conv1D holds the transpose of a Linear's matrix."""
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=args["vocab_size"],
            n_positions=args["block_size"],
            n_embd=args["n_embd"],
            n_layer=args["n_layer"],
            n_head=args["n_head"],
            activation_function="gelu",
            attn_implementation="eager",
        )
    )
    theirs = theirs.double().eval()
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            given = state.get(name)
            if given is None:
                assert not args["bias"]
                weight.zero_()
            else:
                is_conv1d = ".c_" in name and weight.ndim == 2
                weight.copy_(given.T if is_conv1d else given)
    return theirs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A checkpoint with biases."""
    return save_checkpoint(tmp_path / "ckpt.pt", nanogpt_state(MODEL_ARGS), MODEL_ARGS)


def saved_with(path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


@pytest.mark.parametrize("is_compiled", [False, True])
@pytest.mark.parametrize("bias", [True, False])
def test_logits_are_those_of_gpt2(tmp_path: Path, bias: bool, is_compiled: bool) -> None:
    args = MODEL_ARGS | {"bias": bias}
    state = nanogpt_state(args)
    saved = {("_orig_mod." if is_compiled else "") + name: tensor for name, tensor in state.items()}
    model = read_model(NanoGPTCheckpoint(save_checkpoint(tmp_path / "ckpt.pt", saved, args)))
    tokens = torch.randint(args["vocab_size"], (2, 16), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, logits = transformers_gpt2(state, args)(tokens).logits, model(tokens)
    assert expected.std() > 0.5  # so that 1e-9 means nine digits
    assert (logits - expected).abs().max().item() <= TOLERANCE


def test_the_shape_is_that_of_model_args(path: Path) -> None:
    config = NanoGPTCheckpoint(path).config
    assert (config.n_layers, config.n_heads, config.d_model, config.n_ctx, config.d_vocab) == (3, 4, 24, 16, 29)
    assert (config.act, config.tie_embeddings, config.dropout, config.attn_bias) == ("gelu", True, 0.1, True)


def test_describing_lists_the_file(path: Path) -> None:
    source = NanoGPTCheckpoint(path)
    stored = source.stored()
    assert stored["transformer.h.0.attn.c_attn.weight"] == ("float64", (72, 24))
    assert len(stored) == 3 + 2 + 3 * 12
    assert source.details() == {"steps trained": "2,000", "best validation loss": "1.4697"}
    assert source.tokenizer() is None


def test_tied_weights_are_yielded_once(path: Path) -> None:
    names = [name for name, _ in NanoGPTCheckpoint(path).tensors()]
    assert len(names) == len(set(names))
    assert "unembed.W_U.weight" not in names


def test_an_equal_copy_of_the_embedding_is_tied(path: Path) -> None:
    saved_with(path, lambda c: c["model"].update({"lm_head.weight": c["model"]["transformer.wte.weight"].clone()}))
    assert NanoGPTCheckpoint(path).config.tie_embeddings


def test_an_unembedding_of_its_own_is_kept(path: Path) -> None:
    own = torch.randn(29, 24, dtype=torch.float64)
    model = read_model(NanoGPTCheckpoint(saved_with(path, lambda c: c["model"].update({"lm_head.weight": own}))))
    assert torch.equal(model.unembed.W_U.weight, own)
    assert not torch.equal(model.embed.W_E, own)


def test_masks_of_older_checkpoints_are_passed_over(path: Path) -> None:
    mask = torch.ones(16, 16).tril()[None, None]
    saved_with(path, lambda c: c["model"].update({f"transformer.h.{layer}.attn.bias": mask for layer in range(3)}))
    assert len(list(NanoGPTCheckpoint(path).tensors())) == 4 + 3 * 16  # with W_Q, W_K and W_V apart


def test_model_args_without_bias_mean_biases(path: Path) -> None:
    assert NanoGPTCheckpoint(saved_with(path, lambda c: c["model_args"].pop("bias"))).config.attn_bias


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_become_32_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    state = nanogpt_state(MODEL_ARGS, dtype=dtype)
    model = read_model(NanoGPTCheckpoint(save_checkpoint(tmp_path / "ckpt.pt", state, MODEL_ARGS)))
    assert model.embed.W_E.dtype == torch.float32
    assert torch.equal(model.embed.W_E, state["transformer.wte.weight"].float())


def test_the_model_does_not_depend_on_the_file_any_more(path: Path) -> None:
    model = read_model(NanoGPTCheckpoint(path))
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
    for name, weight in model.named_parameters():
        assert weight.any(), name


def test_describing_reads_no_weights(tmp_path: Path) -> None:
    args = MODEL_ARGS | {"vocab_size": 400_000, "n_layer": 0}
    embedding = torch.ones(400_000, 24)  # 38 MB
    state = {"transformer.wte.weight": embedding, "lm_head.weight": embedding, "transformer.wpe.weight": torch.ones(16, 24)}
    state |= {"transformer.ln_f.weight": torch.ones(24), "transformer.ln_f.bias": torch.ones(24)}
    path = save_checkpoint(tmp_path / "ckpt.pt", state, args)
    source = NanoGPTCheckpoint(path)
    with path.open("r+b") as file:  # what is mapped and not read yet becomes what the file becomes
        file.seek(path.stat().st_size // 2)
        file.write(bytes(4096))
    W_E = dict(source.tensors())["embed.W_E"]
    assert W_E.numel() - W_E.count_nonzero() == 1024


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: c.pop("model"), "lacks 'model' and 'model_args'"),
        (lambda c: c.update(model_args=3), "lacks 'model' and 'model_args'"),
        (lambda c: c["model_args"].pop("n_head"), "its model_args lack n_head"),
        (lambda c: c["model_args"].update(n_head=5), "its model_args fit no model: d_model 24 does not divide into n_heads 5"),
        (lambda c: c["model_args"].update(n_head="4"), "its model_args fit no model: n_heads is '4'"),
        (lambda c: c["model_args"].update(dropout="much"), "its model_args fit no model"),
        (lambda c: c["model_args"].update(bias=1), "bias in its model_args is 1; expected True or False"),
        (lambda c: c["model_args"].update(n_layer=10**12), "asks for 1000000000000 layers; there are 41 tensors in all"),
        (lambda c: c["model_args"].update(n_layer=2), r"the tensor transformer\.h\.2\.ln_1\.weight \[24\] is none that"),
        (lambda c: c["model_args"].update(n_layer=4), r"transformer\.h\.3\.ln_1\.weight .* and 11 more is missing"),
        (
            lambda c: c["model_args"].update(vocab_size=2**30),
            r"wte\.weight \(embed\.W_E\) has shape \[29, 24\]; the configuration expects \[1073741824, 24\]",
        ),
        (lambda c: c["model_args"].update(vocab_size=2**60), "make tensors that no machine can hold"),
        (
            lambda c: c["model_args"].update(block_size=17),
            r"transformer\.wpe\.weight \(embed\.pos_embed\.W_pos\) has shape \[16, 24\]; the configuration expects \[17, 24\]",
        ),
        (
            lambda c: c["model"].update({"transformer.h.1.attn.c_attn.weight": torch.zeros(70, 24)}),
            r"transformer\.h\.1\.attn\.c_attn\.weight \(blocks\.1\.attn\.W_Q\.weight, .*\) has shape \[70, 24\]; .* expects \[72, 24\]",
        ),
        (
            lambda c: c["model"].pop("transformer.h.2.ln_2.bias"),
            r"transformer\.h\.2\.ln_2\.bias \(blocks\.2\.ln2\.bias\) is missing, which",
        ),
        (
            lambda c: c["model_args"].update(bias=False),
            r"the tensor transformer\..*bias \[.*\] is none that the configuration knows",
        ),
        (
            lambda c: c["model"].update({"stray.weight": torch.zeros(3)}),
            r"the tensor stray\.weight \[3\] is none that the configuration knows",
        ),
        (lambda c: c["model"].update({"stray.weight": "no tensor"}), r"'stray\.weight' is no plain tensor"),
        (
            lambda c: c["model"].update({"transformer.ln_f.bias": torch.zeros(24, dtype=torch.int32)}),
            r"ln_f\.bias is of torch\.int32",
        ),
        (lambda c: c["model"].update({"transformer.ln_f.bias": torch.zeros(24).to_sparse()}), "is no plain tensor"),
    ],
)
def test_what_does_not_fit(path: Path, change: Callable[[dict[str, Any]], object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence) as caught:
        read_model(NanoGPTCheckpoint(saved_with(path, change)))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)

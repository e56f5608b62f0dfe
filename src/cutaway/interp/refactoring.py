"""New models that compute the same function with other weights, in which circuits are easier to read.

Each function returns a new model in evaluation or training mode as the old one is, with memory of its own unless it says otherwise, and
leaves the old one as it was. Folding and centring are described in TransformerLens' documentation of `fold_ln`,
`center_writing_weights` and `center_unembed`; the circuits `W_V W_O` and `W_Q W_K^T` in Elhage et al. 2021, "A Mathematical Framework
for Transformer Circuits".
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.interp.factored import FactoredMatrix
from cutaway.model import Transformer
from cutaway.weights.source import assemble

__all__ = ["fold_norm", "centre_writing_weights", "centre_unembed", "ungroup_heads", "factor_ov", "factor_qk"]

_Weights = dict[str, Tensor]


def fold_norm(model: Transformer) -> Transformer:
    """Fold the weights and biases of all norms into the matrices that read them: afterwards norms have weight 1 and bias 0.

    A tied unembedding is untied, and where norms have biases all linear layers get biases. With attention_only positions, queries and
    keys read ln1's output plus `W_pos`, which is the same for all layers: it is divided by ln1's weight, which is right only where
    all layers have the same one without zeros in it. Raises ValueError for other models with such positions.
    Source: the documentation of TransformerLens, LayerNorm folding.
    """
    config, weights = model.config, _copied(model)
    if config.norm == "none":
        return _like(model, config, weights)
    weights = _untied(model, weights)
    changes = dict.fromkeys(("attn_bias", "mlp_bias", "unembed_bias"), True) if config.norm_bias else {}
    new_config = config.replace(tie_embeddings=False, **changes)
    if config.position == "attention_only":
        weights["qk_positions.W_pos"] /= _common_gain(model)
    for layer in range(config.n_layers):
        mlp = [f"blocks.{layer}.mlp.{name}" for name in ("W_in", *(["W_gate"] if config.gated_mlp else []))] if config.d_mlp else []
        attn = [f"blocks.{layer}.attn.{name}" for name in ("W_Q", "W_K", "W_V")]
        is_parallel = config.block == "parallel"
        _fold(weights, f"blocks.{layer}.ln1", [*attn, *(mlp if is_parallel else [])])
        if mlp and not is_parallel:
            _fold(weights, f"blocks.{layer}.ln2", mlp)
    _fold(weights, "unembed.ln_final", ["unembed.W_U"])
    return _like(model, new_config, weights)


def centre_writing_weights(model: Transformer) -> Transformer:
    """Subtract from every vector that is written to the residual stream its mean over d_model, which LayerNorm takes away anyway.

    Embeddings, learned positions in the stream, W_O, W_out and their biases are centred, and a tied unembedding is untied; the logits
    stay as they are. Sinusoidal positions are no weights and keep their means. Raises ValueError for models without LayerNorm, in
    which the mean counts. Source: the documentation of TransformerLens, centring of writing weights.
    """
    config = model.config
    if config.norm != "layernorm":
        raise ValueError(
            f"writing weights can be centred under LayerNorm, which subtracts the mean of the residual stream; "
            f"this model's norm is {config.norm!r}, so centring would change what it computes"
        )
    weights = _untied(model, _copied(model))
    for name, weight in weights.items():
        match name.split("."):
            case ["embed", *_, "W_E" | "W_pos"]:  # d_vocab d_model; attention_only's positions are not written to the stream
                weight -= weight.mean(dim=1, keepdim=True)
            case [*_, "W_O" | "W_out", "weight" | "bias"]:  # d_model in_features; d_model
                weight -= weight.mean(dim=0, keepdim=True)
    return _like(model, config.replace(tie_embeddings=False), weights)


def centre_unembed(model: Transformer) -> Transformer:
    """Subtract from every row of the unembedding, and from its bias, the mean over the vocabulary.

    All logits of a position change by one number: log-probabilities stay as they are, logits do not. A tied unembedding is untied.
    Source: the documentation of TransformerLens, centring of the unembedding.
    """
    weights = _untied(model, _copied(model))
    for name in ("unembed.W_U.weight", "unembed.W_U.bias"):  # d_vocab d_model; d_vocab
        if name in weights:
            weights[name] -= weights[name].mean(dim=0, keepdim=True)
    return _like(model, model.config.replace(tie_embeddings=False), weights)


def ungroup_heads(model: Transformer) -> Transformer:
    """Give every query head its own keys and values, those of its group repeated.

    All other weights, and those too where no heads share, are the old model's own memory: a change of one changes both.
    Source: Ainslie et al. 2023, "GQA", whose grouped heads are this with the repeats left out.
    """
    config = model.config
    weights = {name: weight.detach() for name, weight in model.named_parameters()}
    if (group := config.n_heads // config.n_kv_heads) > 1:
        for name, weight in weights.items():
            if name.split(".")[-2] in ("W_K", "W_V"):
                weights[name] = repeat(
                    weight, "(kv_head d_head) ... -> (kv_head group d_head) ...", kv_head=config.n_kv_heads, group=group
                )
    return _like(model, config.replace(n_kv_heads=config.n_heads), weights)


def factor_ov(model: Transformer) -> Transformer:
    """Write every head's OV circuit as its singular value decomposition, `W_V = U S` and `W_O = Vh`: `W_V W_O` stays as it is.

    Then the values of a head are coordinates along orthonormal output directions, strongest first, and the norm of `z` is that of the
    head's output. Heads that share values share one decomposition, that of `W_V [W_O of one, W_O of the next, ...]`: their outputs are
    orthonormal side by side and not each by itself. Computed in float32 or more.
    Source: Elhage et al. 2021, the OV circuit, which is one matrix of low rank however it is factored.
    """
    config, weights = model.config, _copied(model)
    for layer in range(config.n_layers):
        attn = f"blocks.{layer}.attn"
        values = rearrange(
            weights[f"{attn}.W_V.weight"], "(kv_head d_head) d_model -> kv_head d_model d_head", kv_head=config.n_kv_heads
        )
        outputs = rearrange(
            weights[f"{attn}.W_O.weight"],
            "d_model (kv_head group d_head) -> kv_head d_head (group d_model)",
            kv_head=config.n_kv_heads,
            d_head=config.d_head,
        )
        n_more = max(
            0, config.d_head - config.d_model
        )  # rows of zeros for heads so wide that Vh would not span all that W_O writes
        U, S, Vh = FactoredMatrix(torch.nn.functional.pad(values, (0, 0, 0, n_more)), outputs).svd()
        weights[f"{attn}.W_V.weight"] = rearrange(
            _filled((U * S[:, None])[:, : config.d_model], config), "kv_head d_model d_head -> (kv_head d_head) d_model"
        )
        weights[f"{attn}.W_O.weight"] = rearrange(
            _filled(Vh.mT, config), "kv_head (group d_model) d_head -> d_model (kv_head group d_head)", d_model=config.d_model
        )
        if config.attn_bias:  # what W_O writes of it lies among the rows of Vh, so that its coordinates there lose nothing
            bias = rearrange(weights[f"{attn}.W_V.bias"], "(kv_head d_head) -> kv_head 1 d_head", kv_head=config.n_kv_heads)
            weights[f"{attn}.W_V.bias"] = _filled((bias @ outputs).to(Vh.dtype) @ Vh.mT, config).flatten()
    return _like(model, config, weights)


def factor_qk(model: Transformer) -> Transformer:
    """Write every head's QK circuit as its singular value decomposition, `W_Q = U sqrt(S)`, `W_K = V sqrt(S)`: `W_Q W_K^T` stays.

    Biases are decomposed with the matrices, as one row more. Heads that share keys share the decomposition of their stacked queries.
    Computed in float32 or more. Raises ValueError with rotary positions, which turn fixed pairs of coordinates of queries and keys.
    Source: Elhage et al. 2021, the QK circuit.
    """
    config, weights = model.config, _copied(model)
    if config.position == "rotary":
        raise ValueError(
            "rotary positions turn fixed pairs of coordinates of queries and keys, so these cannot be given other ones"
        )
    for layer in range(config.n_layers):
        names = [f"blocks.{layer}.attn.{name}" for name in ("W_Q", "W_K")]
        queries, keys = (_with_bias(weights, name) for name in names)  # (head d_head) d_read
        queries = rearrange(
            queries,
            "(kv_head group d_head) d_read -> kv_head (group d_read) d_head",
            kv_head=config.n_kv_heads,
            d_head=config.d_head,
        )
        keys = rearrange(keys, "(kv_head d_head) d_read -> kv_head d_head d_read", kv_head=config.n_kv_heads)
        U, S, Vh = FactoredMatrix(queries, keys).svd()
        root = S.sqrt()[:, None]
        d_read = keys.shape[-1]
        new_queries = rearrange(
            _filled(U * root, config), "kv_head (group d_read) d_head -> (kv_head group d_head) d_read", d_read=d_read
        )
        new_keys = rearrange(_filled(Vh.mT * root, config), "kv_head d_read d_head -> (kv_head d_head) d_read")
        for name, new in zip(names, (new_queries, new_keys), strict=True):
            weights[f"{name}.weight"] = new[:, : config.d_model]
            if config.attn_bias:
                weights[f"{name}.bias"] = new[:, -1]
    return _like(model, config, weights)


def _copied(model: Transformer) -> _Weights:
    return {name: weight.detach().clone(memory_format=torch.contiguous_format) for name, weight in model.named_parameters()}


def _untied(model: Transformer, weights: _Weights) -> _Weights:
    return {**weights, "unembed.W_U.weight": model.unembed.W_U.weight.detach().clone()}


def _like(model: Transformer, config: ModelConfig, weights: _Weights) -> Transformer:
    """Build a model of these weights with the old one's device, dtypes and mode; biases not given are 0."""
    old = model.embed.W_E
    with torch.device("meta"):
        shapes = {name: weight.shape for name, weight in Transformer(config).named_parameters()}
    zeros = {name: old.new_zeros(shape) for name, shape in shapes.items() if name not in weights and name.endswith("bias")}
    dtypes = {name: weight.dtype for name, weight in model.named_parameters()}
    tensors = ((name, weight.to(dtypes.get(name, weight.dtype))) for name, weight in {**weights, **zeros}.items())
    new = assemble(config, tensors, source="the model", device=old.device, dtype="as stored")
    return new.train(model.training)


def _fold(weights: _Weights, norm: str, readers: list[str]) -> None:
    """Move a norm's weight and bias into the linear layers that read it."""
    gain, bias = weights[f"{norm}.weight"], weights.get(f"{norm}.bias")
    for reader in readers:
        matrix = weights[f"{reader}.weight"]  # out d_model
        if bias is not None:
            weights[f"{reader}.bias"] = weights.get(f"{reader}.bias", 0) + matrix @ bias
        weights[f"{reader}.weight"] = matrix * gain
    weights[f"{norm}.weight"] = torch.ones_like(gain)
    if bias is not None:
        weights[f"{norm}.bias"] = torch.zeros_like(bias)


def _common_gain(model: Transformer) -> Float[Tensor, " d_model"] | float:
    """Return the weight that every ln1 has; raises ValueError when they differ or hold a zero."""
    gains = [weight.detach() for name, weight in model.named_parameters() if name.endswith("ln1.weight")]
    if not gains:
        return 1.0
    if any(not torch.equal(gain, gains[0]) for gain in gains) or not gains[0].all():
        raise ValueError(
            "attention_only positions are added after ln1 and are the same in all layers, so ln1's weight can be folded only "
            "where all layers have the same, without zeros; in this model they differ or hold a zero"
        )
    return gains[0]


def _with_bias(weights: _Weights, name: str) -> Float[Tensor, "out d_read"]:
    """Return a linear layer's matrix, and its bias as one column more where it has one."""
    matrix, bias = weights[f"{name}.weight"], weights.get(f"{name}.bias")
    return matrix if bias is None else torch.cat([matrix, bias[:, None]], dim=1)


def _filled(x: Float[Tensor, "... rank"], config: ModelConfig) -> Float[Tensor, "... d_head"]:
    """Fill up with zeros the coordinates of heads that are wider than what they read."""
    return torch.nn.functional.pad(x, (0, config.d_head - x.shape[-1]))

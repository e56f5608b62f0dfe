"""From a prompt to its graph: the run taken apart, targets chosen, edges into each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.attribution_graphs.graph import AttributionGraph
from cutaway.interp.attribution_graphs.influence import influence, shares
from cutaway.interp.attribution_graphs.linear import Linearised
from cutaway.interp.attribution_graphs.replacement import Frozen, Replacement, Stream, by_layer, replace_mlps
from cutaway.interp.rows import model_of, one_row, token_texts
from cutaway.interp.sae import Dictionary
from cutaway.interp.targets import single_token
from cutaway.language_model import LanguageModel
from cutaway.model import Transformer
from cutaway.weights import model_sha256

__all__ = ["attribute", "logit_directions"]

_N_ROUNDS = 10  # in which the most influential features are looked for
_OVERHEAD = 4  # copies of the edges that influence and pruning hold


def attribute(
    lm: LanguageModel | Transformer,
    text: str | Int[Tensor, "..."],
    transcoders: Sequence[Dictionary],
    *,
    targets: Sequence[str | int] | None = None,
    probability: float = 0.95,
    max_logits: int = 10,
    pos: int = -1,
    max_features: int | None = 4096,
    max_gib: float = 2.0,
    frozen: Frozen = "both",
    progress: Callable[[int, int], None] | None = None,
) -> AttributionGraph:
    """Return the graph of direct effects among a prompt's active features, errors, tokens, and the logits at a position.

    Attention patterns and the scales of norms are held at their values; with patterns alone `frozen`, or nothing, edges are derivatives
    through the norms too, or through both. An MLP layer without a transcoder is an error whole. `targets` are tokens, as text or ids;
    without them the likeliest up to a `probability` in all, `max_logits` at most. Where more features are active than `max_features`,
    those with most influence on the logits are nodes, and what the others add to each target is kept as one number. No more than
    `max_gib` is held at a time. Raises ValueError for transcoders that do not fit the model or each other, targets that are no single
    token, and a graph that would not fit into memory.

    Source: Ameisen et al. 2025, "Circuit Tracing"; Dunefsky et al. 2024, "Transcoders Find Interpretable LLM Feature Circuits".
    """
    if max_features is not None and max_features < 0:
        raise ValueError(f"max_features is {max_features}; expected 0 or more, or None for all")
    model, sha256 = model_of(lm), model_sha256(model_of(lm))
    tokens = _tokens(lm, text)
    replacement = replace_mlps(model, tokens, by_layer(model, transcoders, model_sha256=sha256), pos=pos)
    chosen = _chosen(lm, text, targets, probs := _probabilities(replacement), probability, max_logits)
    linear, directions = Linearised(replacement, frozen=frozen), logit_directions(model, chosen)
    n_active = len(linear.features)
    n_kept = n_active if max_features is None else min(max_features, n_active)
    _check_memory(linear, n_kept + len(chosen), max_gib)
    kept, edges = _edges(linear, directions, probs[chosen], n_kept, max_gib / _OVERHEAD, progress)
    columns = torch.cat([kept, torch.arange(n_active, linear.n_sources, device=kept.device)])
    is_left = torch.ones(linear.n_sources, dtype=torch.bool, device=kept.device).index_fill(0, columns, False)
    values = _read(replacement, linear, replacement.stream, kept, chosen)
    return AttributionGraph(
        prompt=text if isinstance(text, str) else "".join(token_texts(lm, tokens[0])),
        tokens=tuple(tokens[0].tolist()),
        words=tuple(token_texts(lm, tokens[0])),
        pos=replacement.pos,
        n_layers=model.config.n_layers,
        transcoders={layer: each.config.name for layer, each in replacement.transcoders.items()},
        features=linear.features[kept],
        activations=linear.activations[kept],
        errors=linear.errors,
        logits=tuple(chosen.tolist()),
        logit_words=tuple(token_texts(lm, chosen)),
        probs=probs[chosen],
        edges=edges[:, columns],
        # where all is linear they are known by themselves, and the sum can be held against the values
        biases=_read(replacement, linear, replacement.biases(), kept, chosen) if frozen == "both" else values - edges.sum(1),
        left_out=edges[:, is_left].sum(1),
        values=values,
        n_active=n_active,
        model_sha256=sha256,
        frozen=frozen,
    )


def logit_directions(model: Transformer, tokens: Int[Tensor, " logit"]) -> Float[Tensor, "logit d_model"]:
    """Return what each token's logit less the mean over the vocabulary multiplies the last norm's output with."""
    W_U = model.unembed.W_U.weight.detach()
    return W_U[tokens] - W_U.mean(0)


def _tokens(lm: LanguageModel | Transformer, text: str | Tensor) -> Int[Tensor, "1 pos"]:
    if isinstance(lm, LanguageModel):
        return one_row(lm, text)
    if isinstance(text, str):
        raise ValueError("a text needs a tokenizer: give the LanguageModel, as cutaway.load returns it, or tokens")  # noqa: TRY004
    if text.numel() != text.shape[-1] or not text.numel():
        raise ValueError(f"the tokens have the shape {list(text.shape)}; expected one row of them")
    return text.reshape(1, -1)


@torch.no_grad()
def _probabilities(replacement: Replacement) -> Float[Tensor, " d_vocab"]:
    return replacement.model.unembed.W_U(replacement.stream.normed)[0, 0].softmax(-1)  # type: ignore[no-any-return]


def _chosen(
    lm: LanguageModel | Transformer,
    text: str | Tensor,
    targets: Sequence[str | int] | None,
    probs: Float[Tensor, " d_vocab"],
    probability: float,
    max_logits: int,
) -> Int[Tensor, " logit"]:
    """Return the tokens whose logits are targets, the likeliest first where none are given."""
    if targets is None:
        if not 0 < probability <= 1 or max_logits < 1:
            raise ValueError(f"probability is {probability} and max_logits {max_logits}; expected above 0 to 1, and at least 1")
        ordered = probs.sort(descending=True, stable=True)
        n_needed = int((ordered.values.cumsum(0) < probability).sum()) + 1
        return ordered.indices[: min(n_needed, max_logits)]
    ids: list[int] = []
    for each in targets:
        if isinstance(each, str):
            if not isinstance(lm, LanguageModel):
                raise ValueError(f"the target {each!r} needs a tokenizer: give its id, or the LanguageModel")  # noqa: TRY004
            ids.append(single_token(lm, each, after=text if isinstance(text, str) else "")[0])
        else:
            ids.append(each)
    if wrong := [each for each in ids if not 0 <= each < len(probs)]:
        raise ValueError(f"there is no logit of token {wrong[0]}; there are {len(probs)}")
    if not ids or len(set(ids)) < len(ids):
        raise ValueError(f"the targets are {list(targets)}: expected at least one, and each once")
    return torch.tensor(ids, device=probs.device)


def _check_memory(linear: Linearised, n_targets: int, max_gib: float) -> None:
    needed = _OVERHEAD * n_targets * linear.n_sources * linear.activations.element_size() / 2**30
    if needed > max_gib:
        raise ValueError(
            f"{n_targets} targets and {linear.n_sources} sources have edges of {needed:.2f} GiB and {max_gib:.2f} may be used: "
            "give a smaller max_features, a shorter prompt, or a larger max_gib"
        )


def _edges(
    linear: Linearised,
    directions: Float[Tensor, "logit d_model"],
    probs: Float[Tensor, " logit"],
    n_kept: int,
    max_gib: float,
    progress: Callable[[int, int], None] | None,
) -> tuple[Int[Tensor, " kept"], Float[Tensor, "target source"]]:
    """Return which features are targets, in their order, and the edges into them and then into the logits, from all sources.

    Where not all are to be, those come first on which most depends by the edges found so far.
    """
    n_active, size, device = len(linear.features), linear.batch_size(max_gib), directions.device
    to_logits = torch.cat([linear.to_logits(each) for each in directions.split(size)])
    kept, rows = torch.zeros(0, dtype=torch.long, device=device), to_logits[:0]
    step = n_kept if n_kept == n_active else -(-n_kept // _N_ROUNDS)
    while len(kept) < n_kept:
        weights = torch.cat([probs.new_zeros(len(kept)), probs])
        reached = influence(shares(torch.cat([rows, to_logits])), weights, kept)[:n_active]
        reached[kept] = -1.0
        new = reached.argsort(descending=True, stable=True)[: min(step, n_kept - len(kept))].sort().values
        found = []
        for layer in linear.features[new, 0].unique().tolist():
            for which in new[linear.features[new, 0] == layer].split(size):
                found.append(linear.to_features(which))
                if progress is not None:
                    progress(len(kept) + sum(map(len, found)), n_kept)
        kept, rows = torch.cat([kept, new]), torch.cat([rows, *found])
    kept, order = kept.sort()
    return kept, torch.cat([rows[order], to_logits])


@torch.no_grad()
def _read(
    replacement: Replacement, linear: Linearised, stream: Stream, kept: Int[Tensor, " kept"], chosen: Int[Tensor, " logit"]
) -> Float[Tensor, " target"]:
    """Return the pre-activations of the features and the logits of the tokens, less their mean, that a stream gives."""
    features, found = linear.features[kept], []
    for layer, transcoder in replacement.transcoders.items():
        of_layer = features[features[:, 0] == layer]
        pre = transcoder.pre_activations(stream.reads[layer][0])
        found.append(pre[of_layer[:, 1], of_layer[:, 2]])
    logits = replacement.model.unembed.W_U(stream.normed)[0, 0]
    return torch.cat([*found, logits[chosen] - logits.mean()])

"""Function vectors: what heads write that carries a task from examples to a new prompt (Todd et al. 2024)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from cutaway.interp import edits, metrics
from cutaway.interp.attention import head_label
from cutaway.interp.edits import Edit
from cutaway.interp.metrics import Metric
from cutaway.interp.rows import Rows, rows_of
from cutaway.interp.running import run_with_cache
from cutaway.interp.sites import full_name
from cutaway.interp.steering.function_result import FunctionVector, Placing
from cutaway.interp.steering.vector import SteeringVector
from cutaway.interp.sweep import sweep
from cutaway.language_model import LanguageModel
from cutaway.model import Attention
from cutaway.views import without_dropout
from cutaway.weights import model_sha256

__all__ = ["function_vector"]

_EXAMPLE, _QUESTION, _BETWEEN = "Q: {}\nA: {}", "Q: {}\nA:", "\n\n"
_ROWS_A_RUN = 4
_N_HEADS = 10
_STRENGTHS = (1.0, 2.0, 4.0, 8.0)


def function_vector(
    lm: LanguageModel,
    pairs: Sequence[tuple[str, str]],
    *,
    n_shots: int = 5,
    n_prompts: int = 16,
    n_heads: int | None = None,
    layer: int | None = None,
    strength: float | None = None,
    n_random: int = 5,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> FunctionVector:
    """Find the heads that carry a task, given as pairs of input and output, and return the sum of what they write as a vector.

    Prompts of `n_shots` examples and a question are made of two thirds of the pairs, drawn with `seed`: a pair that comes twice counts
    once, and pairs of one input go together, so that no question is both learned and tested. Each head's output after the last token,
    averaged over these, is put into prompts whose examples have their outputs shuffled: by how much the right output's probability
    rises is the head's average indirect effect. The vector is the sum of the mean outputs of the `n_heads` with the largest, 10 unless
    given, added `strength` times to the stream after `layer`: where neither is given, those with which the pairs that it was made of
    have the likeliest answers when asked without examples. It is tested on the pairs kept aside; beside it stands what `n_random`
    random vectors do, and what examples do. Raises ValueError for fewer pairs than that takes, fewer than 2 shots, outputs that are
    all the same, and outputs that begin with the same token, by which an answer is known.

    Source: Todd et al. 2024, "Function Vectors in Large Language Models", sections 2 and 3.
    """
    drawn = random.Random(seed)
    learned, kept = _split(drawn, pairs, n_shots)
    _check_told_apart(lm, [*learned, *kept])
    config = lm.config
    names = [full_name(config, "resid_post", each) for each in (range(config.n_layers) if layer is None else [layer])]
    n_heads = _checked_heads(n_heads, config.n_layers * config.n_heads)
    clean, shuffled = zip(*(_prompts(drawn, learned, n_shots) for _ in range(n_prompts)), strict=True)
    lm = replace(lm, model=without_dropout(lm.model))
    with torch.no_grad():
        means = _mean_z(lm, rows_of(lm, [prompt for prompt, _ in clean]))
        base, scores = _effects(lm, shuffled, means, progress)
        effects = rearrange((scores - base).mean(dim=1), "(layer head) -> layer head", head=config.n_heads).cpu()
        heads = _largest(effects, n_heads)
        written, sha256 = _written(lm, means, heads), model_sha256(lm.model)
        vector = SteeringVector(name=names[0], vector=written, made=_made_of(heads), model_sha256=sha256)
        placing = _placed(lm, learned, vector, names, _STRENGTHS if strength is None else (strength,))
        vector, strength = placing.best(vector)
        tested = _tested(lm, kept, vector, strength=strength, n_random=n_random, seed=seed)
        with_shots = _share_right(lm, [_after_examples(drawn, learned, pair, n_shots) for pair in kept], [[]])[0]
    return FunctionVector(
        vector=vector,
        heads=tuple(heads),
        effects=effects,
        base_prob=float(base.mean()),
        n_prompts=n_prompts,
        n_shots=n_shots,
        strength=strength,
        n_tested=len(kept),
        accuracy=tested[0],
        steered_accuracy=tested[1],
        random_accuracies=tuple(tested[2:]),
        shots_accuracy=with_shots,
        placing=placing,
    )


def _made_of(heads: Sequence[tuple[int, int]]) -> str:
    return f"mean outputs of {len(heads)} heads ({', '.join(head_label(*head) for head in heads[:3])}, ...)"


def _largest(effects: Float[Tensor, "layer head"], n: int) -> list[tuple[int, int]]:
    """Return layer and head of the largest effects."""
    order = effects.flatten().argsort(descending=True, stable=True)[:n].tolist()
    return [divmod(place, effects.shape[1]) for place in order]


def _checked_heads(n_heads: int | None, n_all: int) -> int:
    if n_heads is None:
        return min(_N_HEADS, n_all)
    if not 1 <= n_heads <= n_all:
        raise ValueError(f"{n_heads} heads were asked for; expected 1 to the {n_all} heads of the model")
    return n_heads


def _split(
    drawn: random.Random, pairs: Sequence[tuple[str, str]], n_shots: int
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Return the pairs to learn from and those of the third of the questions that is kept for the test, drawn at random.

    A list may be in some order. Questions are the same where they differ by outer spaces and capitals alone.
    """
    if n_shots < 2:
        raise ValueError(f"{n_shots} example was asked for: give at least 2, as the output of a single one cannot be shuffled")
    of_question: dict[str, list[tuple[str, str]]] = {}
    for pair in dict.fromkeys(pairs):
        of_question.setdefault(_question_of(pair), []).append(pair)
    n, n_kept = len(of_question), len(of_question) // 3
    order = drawn.sample(list(of_question), n)
    learned, kept = ([pair for each in part for pair in of_question[each]] for part in (order[: n - n_kept], order[n - n_kept :]))
    if not kept or n - n_kept <= n_shots:
        raise ValueError(
            f"there are {n} different inputs, of which a third is kept for the test; {n_shots} examples and a question need "
            f"{n_shots + 1} others: give at least {-(-3 * (n_shots + 1) // 2)} pairs, or ask for fewer examples"
        )
    if len({output for _, output in learned}) < 2:
        raise ValueError(f"the pairs to learn from all have the output {learned[0][1]!r}: give pairs whose outputs can be shuffled")
    return learned, kept


def _question_of(pair: tuple[str, str]) -> str:
    return pair[0].strip().casefold()


def _prompts(drawn: random.Random, pairs: Sequence[tuple[str, str]], n_shots: int) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return a prompt with the answer that should follow, and the same with the outputs of its examples shuffled.

    Pairs are drawn until they are of different inputs and the examples have different outputs, and these shuffled until they stand
    otherwise than before.
    """
    while True:
        *shots, (question, answer) = chosen = drawn.sample(pairs, n_shots + 1)
        outputs = [output for _, output in shots]
        if len(set(outputs)) > 1 and len(set(map(_question_of, chosen))) == len(chosen):
            break
    while outputs == [output for _, output in shots]:
        drawn.shuffle(outputs)
    asked = _QUESTION.format(question)
    clean = [_EXAMPLE.format(*shot) for shot in shots]
    mixed = [_EXAMPLE.format(given, output) for (given, _), output in zip(shots, outputs, strict=True)]
    return (_BETWEEN.join([*clean, asked]), answer), (_BETWEEN.join([*mixed, asked]), answer)


def _after_examples(
    drawn: random.Random, pairs: Sequence[tuple[str, str]], asked: tuple[str, str], n_shots: int
) -> tuple[str, str]:
    """Return a question after examples of the pairs, with its answer."""
    shots = [_EXAMPLE.format(*shot) for shot in drawn.sample(pairs, n_shots)]
    return _BETWEEN.join([*shots, _QUESTION.format(asked[0])]), asked[1]


def _answer_ids(lm: LanguageModel, prompts: Sequence[tuple[str, str]]) -> list[int]:
    """Return the first token of each answer, as it comes after its prompt."""
    found = []
    for prompt, answer in prompts:
        before, after = lm.tokens(prompt)[0], lm.tokens(f"{prompt} {answer}")[0]
        if len(after) <= len(before) or not torch.equal(after[: len(before)], before):
            raise ValueError(f"{answer!r} does not begin with a token of its own after {prompt[-12:]!r}: give other outputs")
        found.append(int(after[len(before)]))
    return found


def _check_told_apart(lm: LanguageModel, pairs: Sequence[tuple[str, str]]) -> None:
    """Raise ValueError for different outputs that begin with the same token: which of them was answered would not be seen."""
    first_with: dict[int, str] = {}
    one_of_each = {output.strip(): (_QUESTION.format(given), output) for given, output in pairs}
    for output, token in zip(one_of_each, _answer_ids(lm, list(one_of_each.values())), strict=True):
        other = first_with.setdefault(token, output)
        if other != output:
            raise ValueError(
                f"{output!r} and {other!r} begin with the same token, {lm.tokenizer.decode([token])!r}, and an answer is known by its "
                "first token: give outputs that differ in it, or a model whose tokens are words"
            )


def _mean_z(lm: LanguageModel, rows: Rows) -> Float[Tensor, "layer head d_head"]:
    """Return every head's `z` after the last token, mean over rows."""
    total = torch.zeros(lm.config.n_layers, lm.config.n_heads, lm.config.d_head, dtype=torch.float64)
    for start in range(0, len(rows.lengths), _ROWS_A_RUN):
        lengths = rows.lengths[start : start + _ROWS_A_RUN]
        tokens = rows.tokens[start : start + _ROWS_A_RUN, : max(lengths)]
        _, cache = run_with_cache(lm.model, tokens, "blocks.*.attn.z", lengths=lengths, stop_after_layer=lm.config.n_layers - 1)
        last = torch.tensor(lengths) - 1
        z = cache.stack("z")[:, torch.arange(len(lengths)), last]  # layer batch head d_head
        total += z.double().sum(dim=1).cpu()
    return (total / len(rows.lengths)).to(lm.model.embed.W_E)


def _effects(
    lm: LanguageModel,
    prompts: Sequence[tuple[str, str]],
    means: Float[Tensor, "layer head d_head"],
    progress: Callable[[int, int], None] | None,
) -> tuple[Float[Tensor, " batch"], Float[Tensor, "variant batch"]]:
    """Return the right answer's probability after each prompt, and with each head's mean output put in at the last token."""
    rows = rows_of(lm, [prompt for prompt, _ in prompts])
    variants: list[list[Edit]] = [[]]
    for layer, of_layer in enumerate(means):
        variants += [[edits.mean(f"blocks.{layer}.attn.z", z, head=head, pos=-1)] for head, z in enumerate(of_layer)]
    lengths = None if rows.is_even else rows.lengths
    scores = sweep(lm.model, rows.tokens, variants, metrics.prob(_answer_ids(lm, prompts)), lengths=lengths, progress=progress)
    return scores[0], scores[1:]


def _written(
    lm: LanguageModel, means: Float[Tensor, "layer head d_head"], heads: Sequence[tuple[int, int]]
) -> Float[Tensor, " d_model"]:
    """Return the sum of what heads write into the stream."""
    total = torch.zeros(lm.config.d_model, dtype=torch.float64)
    for layer, head in heads:
        attn = lm.model.blocks[layer].attn
        assert isinstance(attn, Attention)
        W_O = rearrange(attn.W_O.weight, "d_model (head d_head) -> head d_model d_head", head=lm.config.n_heads)
        total += (W_O[head].double() @ means[layer, head].double()).cpu()
    return total.to(lm.model.embed.W_E)


def _placed(
    lm: LanguageModel, pairs: Sequence[tuple[str, str]], vector: SteeringVector, names: Sequence[str], strengths: Sequence[float]
) -> Placing:
    """Return the right answer's mean probability without examples, with the vector at each of these places and strengths."""
    asked = [(_QUESTION.format(question), answer) for question, answer in pairs]
    rows = rows_of(lm, [prompt for prompt, _ in asked])
    variants = [replace(vector, name=name).edits(strength, pos=-1) for name in names for strength in strengths]
    lengths = None if rows.is_even else rows.lengths
    probs = sweep(lm.model, rows.tokens, variants, metrics.prob(_answer_ids(lm, asked)), lengths=lengths)
    found = rearrange(probs.mean(dim=1), "(name strength) -> name strength", strength=len(strengths))
    return Placing(tuple(names), tuple(strengths), found.cpu())


class _Hit(Metric):
    """1 where a row's own answer is the likeliest next token."""

    pos = -1

    def __init__(self, answers: Sequence[int]) -> None:
        self.answers = list(answers)

    def score(self, logits: Float[Tensor, "lane read d_read"], row: int, positions: Sequence[int]) -> Float[Tensor, " lane"]:  # noqa: ARG002
        hits: Tensor = (logits[:, 0].argmax(-1) == self.answers[row]).to(torch.promote_types(logits.dtype, torch.float32))
        return hits


def _tested(
    lm: LanguageModel, pairs: Sequence[tuple[str, str]], vector: SteeringVector, *, strength: float, n_random: int, seed: int
) -> list[float]:
    """Return how many questions without examples get the right answer: as it is, with the vector, and with random ones."""
    others = [vector.random(seed=seed + number) for number in range(n_random)]
    variants: list[list[Edit]] = [[], *(each.edits(strength, pos=-1) for each in (vector, *others))]
    return _share_right(lm, [(_QUESTION.format(question), answer) for question, answer in pairs], variants)


def _share_right(lm: LanguageModel, asked: Sequence[tuple[str, str]], variants: Sequence[list[Edit]]) -> list[float]:
    """Return how many questions get their answer as the likeliest next token, under each variant."""
    rows = rows_of(lm, [prompt for prompt, _ in asked])
    lengths = None if rows.is_even else rows.lengths
    scores = sweep(lm.model, rows.tokens, variants, _Hit(_answer_ids(lm, asked)), lengths=lengths)
    found: list[float] = scores.double().mean(dim=1).tolist()
    return found

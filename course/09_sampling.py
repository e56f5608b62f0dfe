# %% [markdown]
# # Sampling
#
# **How does a list of probabilities become a text, and why is the likeliest text a bad one?**
#
# You need: [the whole model](06_whole_model.py), whose output is one logit for each token of the vocabulary. Explains:
# [sampling.py](../src/cutaway/generation/sampling.py), [decode.py](../src/cutaway/generation/decode.py),
# [beam.py](../src/cutaway/generation/beam.py).

# %%
import csv
import inspect
import json
import math
import textwrap

import torch
from torch import Tensor

import cutaway
from cutaway import ModelConfig, Transformer, plots
from cutaway.generation import RowStreams, Sampling, beam_search, decode, draw, shaped_log_probs
from cutaway.lesson import checking, expect, figure, pick, say, show

# %% [markdown]
# ## The idea
#
# A language model does not write. It reads a text and returns, for every token, how likely it is to come next. To write, a
# program chooses one token, puts it at the end of the text, and asks again. All that is called sampling lies in the word
# *chooses*.
#
# There are two families of answers. One *draws*: each token comes up as often as its probability says, perhaps after the
# distribution was reshaped so that unlikely tokens come up less. The other *searches* for the text whose probability as a whole
# is highest. It sounds better to search. This lesson measures why it is not: a likeliest text exists, it is easy to come near
# to, and it does not look like anything that anybody wrote.

# %% [markdown]
# ## The equation
#
# From logits $\ell$ of shape `d_vocab` and a *temperature* $T > 0$:
#
# $$ p_i = \frac{e^{\ell_i / T}}{\sum_j e^{\ell_j / T}}, \qquad H(p) = -\sum_i p_i \ln p_i, \qquad N_\mathrm{eff} = e^{H(p)} $$
#
# $T = 1$ is the model's own prediction. $T \to 0$ puts everything on the largest logit, $T \to \infty$ makes all tokens equal.
# The *entropy* $H$, in nats, says how open the choice is, and $N_\mathrm{eff}$ says it as a number that one can picture: a
# choice among $N$ equal tokens has $N_\mathrm{eff} = N$, a certain one has 1.
#
# A text of $n$ tokens has the probability $\prod_t p(x_t \mid x_{<t})$. Its *surprise* is minus the logarithm of that, and
# mostly given for each token.

# %% [markdown]
# ## The code
#
# Beside the temperature there are four ways to reshape a distribution:
#
# - *top-k* keeps the $k$ likeliest tokens;
# - *top-p*, the nucleus, goes through the tokens from the likeliest down and keeps the fewest whose probabilities reach $p$
#   together;
# - *min-p* keeps the tokens that are at least $m$ times as likely as the likeliest, with $m$ below 1;
# - the *repetition penalty* $r$ acts on tokens that have come: it divides their logits by $r$ if they are above 0, and
#   multiplies them by $r$ if they are below.
#
# What is kept is scaled up to a sum of 1. All of it is one function, whose steps come in a fixed order: the penalty and the
# temperature move logits, each of the others leaves a token in or sends its logit to $-\infty$. (The nucleus is one of the
# exercises.)

# %%
show(shaped_log_probs)

# %% [markdown]
# Then one uniform number between 0 and 1 picks a token: lay the probabilities end to end on a line of length 1, and see where
# the number falls.

# %%
show(draw)

# %% [markdown]
# ## Six tokens by hand
#
# Six tokens with logits that anybody can follow. Each row of the picture is one way to reshape them.

# %%
words = ["the", "a", "my", "this", "blue", "of"]
logits = torch.tensor([[3.0, 2.0, 1.5, 1.0, 0.0, -1.0]], dtype=torch.float64)
ways = {
    "as the model says": Sampling(temperature=1.0),
    "temperature 0.5": Sampling(temperature=0.5),
    "temperature 2": Sampling(temperature=2.0),
    "top-k 3": Sampling(temperature=1.0, top_k=3),
    "top-p 0.9": Sampling(temperature=1.0, top_p=0.9),
    "min-p 0.2": Sampling(temperature=1.0, min_p=0.2),
    '"the" seen, penalty 1.5': Sampling(temperature=1.0, repetition_penalty=1.5),
}
shaped = torch.stack([shaped_log_probs(logits, sampling, seen=[[0]])[0].exp() for sampling in ways.values()])

plain = logits[0].exp() / logits[0].exp().sum()
expect(shaped[0], plain, "the softmax by hand")
expect(shaped[1], plain**2 / (plain**2).sum(), "half the temperature squares the probabilities")
expect(shaped[3, :3], plain[:3] / plain[:3].sum(), "what top-k keeps is scaled up to a sum of 1")
n_kept = int((plain.cumsum(0) < 0.9).sum()) + 1  # the fewest that reach 0.9 together
expect(shaped[4, :n_kept], plain[:n_kept] / plain[:n_kept].sum(), "top-p")
expect(
    (shaped[5] > 0).tolist(), (plain >= 0.2 * plain.max()).tolist(), "min-p keeps what is at least a fifth as likely as the best"
)
figure(
    plots.heatmap(
        shaped,
        rows=list(ways),
        columns=words,
        texts=[[f"{p:.2f}" if p else "0" for p in row] for row in shaped.tolist()],
        title="One prediction, reshaped",
        label="probability",
    ),
    "Six tokens under seven ways to reshape them: temperature moves all, the others cut the tail, the penalty moves what was seen",
)

# %% [markdown]
# ## How open is the choice?
#
# Top-k keeps the same number of tokens whether the model is sure or not. Top-p and min-p ask the distribution. Here is a small
# model of characters that reads Python; inside a word it knows what comes, after `return ` it does not.

# %%
lm = cutaway.load("stdlib-4l")
text = "    def close(self):\n        return self._file.close()\n"
tokens = lm.tokens(text)
with torch.inference_mode():
    log_probs = lm.model(tokens)[0].double().log_softmax(dim=-1)  # pos d_vocab
entropy = -(log_probs.exp() * log_probs).sum(dim=-1)
kept = {
    name: (shaped_log_probs(log_probs, sampling, seen=[[]] * len(log_probs)) > -math.inf).sum(dim=-1)
    for name, sampling in {"top-p 0.9": ways["top-p 0.9"], "min-p 0.2": ways["min-p 0.2"], "top-k 3": ways["top-k 3"]}.items()
}
figure(
    plots.heatmap(
        torch.stack([entropy.exp(), *kept.values()]).numpy(),
        rows=["effective choices", *kept],
        columns=list(text),
        title="How many tokens are in the draw, after each character of one text",
        column_title="the character just read",
        label="tokens",
    ),
    "Effective choices are many where something new begins, few inside a word that the model knows; top-p follows, top-k does not",
)
surest, openest = int(entropy.argmin()), int(entropy.argmax())
say(f"""
The surest place is after `{text[: surest + 1][-8:]!r}`, with {entropy[surest].exp():.2f} effective choices; the most open is after
`{text[: openest + 1][-8:]!r}`, with {entropy[openest].exp():.1f}. Top-p 0.9 keeps {kept["top-p 0.9"][surest]} and
{kept["top-p 0.9"][openest]} tokens there; top-k keeps 3 at both.
""")

# %% [markdown]
# Why cut the tail at all? Each unlikely token is harmless alone. But there are many of them, and a text makes a choice at every
# token: what is rare at one is nearly certain to happen in a hundred, and the model then has to go on from a text that it has
# never seen the like of.

# %%
tail = 1 - log_probs.exp().topk(10, dim=-1).values.sum(dim=-1)
ever = 1 - torch.prod(1 - tail)
say(f"""
Outside the ten likeliest tokens lies a share of {tail.mean():.3f} of the probability on average. Over these {len(tail)} characters
the chance to step out there at least once is {ever:.2f}.
""")

# %% [markdown]
# ## Drawing is right: count
#
# That a sampler follows its distribution is a claim, and claims are checked. Draw 20,000 times, count each token, and compare
# with what is expected. If each count differs from its expectation only by chance, the sum
#
# $$ \chi^2 = \sum_i \frac{(\mathrm{count}_i - n p_i)^2}{n p_i} $$
#
# over $m$ tokens is near $m - 1$, give or take $\sqrt{2 (m - 1)}$. So the distance from $m - 1$ in such units is a few at most
# for a right sampler, and grows in proportion to $n$ for a wrong one. A token that was cut off must not come even once: no
# number of draws excuses that.


# %%
def surprise_of_counts(drawn: Tensor, probs: Tensor) -> float:
    """Return how many standard deviations the counts of `drawn` lie above what `probs` lets expect."""
    expected = len(drawn) * probs
    counts = torch.bincount(drawn, minlength=len(probs)).double()
    if counts[probs == 0].any():
        return math.inf
    is_common = expected >= 5  # rarer tokens are counted together, as their counts are no bell curve
    counts = torch.cat([counts[is_common], counts[~is_common].sum()[None]])
    expected = torch.cat([expected[is_common], expected[~is_common].sum()[None]])
    counts, expected = counts[expected > 1], expected[expected > 1]
    freedom = len(counts) - 1
    return float((((counts - expected) ** 2 / expected).sum() - freedom) / math.sqrt(2 * freedom))


n_draws = pick(fast=20_000, full=200_000)
uniforms = torch.rand(n_draws, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def drawn_from(sampling: Sampling) -> Tensor:
    shaped = shaped_log_probs(log_probs[openest : openest + 1], sampling, seen=[[]])
    return draw(shaped.expand(n_draws, -1), uniforms)


wanted = shaped_log_probs(log_probs[openest : openest + 1], Sampling(temperature=0.9, top_k=10), seen=[[]])[0].exp()
right = surprise_of_counts(drawn_from(Sampling(temperature=0.9, top_k=10)), wanted)
wrong = surprise_of_counts(drawn_from(Sampling(temperature=1.0, top_k=10)), wanted)
assert abs(right) < 5 < wrong
assert surprise_of_counts(drawn_from(Sampling(temperature=0.9)), wanted) == math.inf, "without the cut"
say(f"""
The library's draws lie {right:+.1f} standard deviations from what is expected. Draws at temperature 1.0, judged as if they were at
0.9, lie {wrong:.0f} away: the test sees a slip of a tenth in the temperature. Draws without the cut to ten tokens lie infinitely far.
""")

# %% [markdown]
# ## Greedy text runs in circles
#
# Temperature 0 takes the likeliest token each time. With a fixed window the next token is then a function of the last `n_ctx`
# tokens; there are finitely many windows, so sooner or later one comes again, and from there the text repeats for ever. That
# argument allows astronomically long circles. What happens is worse: a few tokens, at once. And each round often makes the next
# more likely, since a model that has learnt to copy takes what it wrote itself as evidence.


# %%
def written(prompts: list[str], sampling: Sampling, *, n_new: int, seed: int = 0) -> Tensor:
    """Return each prompt's tokens, all of one length, with `n_new` more: `batch pos`."""
    rows = [lm.tokenizer.encode(prompt) for prompt in prompts]
    for chosen in decode(lm.model, [list(row) for row in rows], max_new_tokens=n_new, sampling=sampling, seed=seed):
        for row, token in chosen:
            rows[row].append(token)
    return torch.tensor(rows)


def surprises(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the surprise of every token but the first, and the entropy of its prediction: `batch pos` each, in nats."""
    with torch.inference_mode():
        log_probs = lm.model(rows[:, :-1]).double().log_softmax(dim=-1)
    return -log_probs.gather(-1, rows[:, 1:, None]).squeeze(-1), -(log_probs.exp() * log_probs).sum(dim=-1)


def period(tokens: list[int]) -> int | None:
    """Return the length of the circle in which a text ends, if it has gone round three times."""
    return next((n for n in range(1, len(tokens) // 3) if tokens[-n:] * 3 == tokens[-3 * n :]), None)


greedy = written(["def ", "clas", "if i"], Sampling(temperature=0.0), n_new=60)
assert any(period(row.tolist()) for row in greedy)
say("\n".join(f"- `{lm.text(row)!r}`" for row in greedy))

# %% [markdown]
# A model of Python ends in blanks or underscores, of which it has seen whole lines. The mechanism is clearest in a model that
# can do nothing but copy: `induction-2l` has learnt that what followed a letter before will follow it again. Give it eight
# random letters, of which it can foresee nothing, and take the likeliest each time. Here are two such texts, and a count of
# twelve.

# %%
copier = cutaway.load("induction-2l")
n_new, n_texts, chances, circles, is_sure = 48, 12, {}, [], []
for seed in range(n_texts):
    row = torch.randint(copier.config.d_vocab, (8,), generator=torch.Generator().manual_seed(seed)).tolist()
    for chosen in decode(copier.model, [list(row)], max_new_tokens=n_new, sampling=Sampling(temperature=0.0)):
        row.append(chosen[0][1])
    with torch.inference_mode():
        probs = copier.model(torch.tensor(row))[:-1].softmax(dim=-1)
    given = probs[range(len(row) - 1), row[1:]][-n_new:].tolist()
    circles.append(period(row))
    is_sure.append(circles[-1] is not None and min(given[-12:]) > 0.5)
    if seed < 2:
        chances[copier.text(row[:8])] = (list(range(1, n_new + 1)), given)
        say(f"- `{copier.text(row[:8])}` goes on `{copier.text(row[8:])}`: a circle of {circles[-1]}")
n_circles = n_texts - circles.count(None)
first_text, second_text = (y for _, y in chances.values())
assert min(first_text[15:]) > 0.5 > 3 * first_text[0], "from guessing to near certainty"
assert max(second_text) > 0.8 > 0.3 > second_text[-1], "a certainty that is lost again"
assert n_circles > n_texts / 2
assert 1 < sum(is_sure) < n_circles
figure(
    plots.lines(
        chances,
        title="The probability of each letter of greedy text",
        x_label="letters written",
        y_label="probability given by the model",
    ),
    "Guesses at first; once the first text goes round, each letter is likelier than all others together. In the second text "
    "certainty is lost again after some thirty rounds of one letter, and greed goes round all the same",
)
say(f"""
Of {n_texts} texts {n_circles} have gone round at least three times after {n_new} letters, and {sum(is_sure)} of these give every letter
of the end more than one half. Greed ends in a circle whether the model is sure of it or not: to be the likeliest is enough.
""")

# %% [markdown]
# ## Searching: a tree of nine leaves
#
# Greedy choice does not even find the likeliest text. Take three tokens A, B, C, where the next depends on the last alone, and
# a model that knows these probabilities exactly: a transformer without layers, whose unembedding is the table.

# %%
table = torch.tensor([[0.42, 0.33, 0.25], [0.9, 0.06, 0.04], [0.5, 0.4, 0.1]], dtype=torch.float64)  # a row: what follows A, B, C
shape = ModelConfig(d_vocab=3, n_ctx=8, n_layers=0, n_heads=1, d_model=3, norm="none", position="none", tie_embeddings=False)
bigrams = Transformer(shape).double().eval()
with torch.no_grad():
    bigrams.embed.W_E.copy_(torch.eye(3))
    bigrams.unembed.W_U.weight.copy_(table.log().T)
A, B, C = range(3)
leaves = table[C][:, None] * table  # after C: the first token, then the second
figure(
    plots.heatmap(
        leaves,
        rows=["A", "B", "C"],
        columns=["A", "B", "C"],
        texts=[[f"{p:.3f}" for p in row] for row in leaves.tolist()],
        title="All texts of two tokens after C",
        row_title="first",
        column_title="second",
        label="probability",
    ),
    "A is the likelier first token, but the likeliest pair begins with B",
)
by_greed = beam_search(bigrams, [C], num_beams=1, max_new_tokens=2)[0]
by_search = beam_search(bigrams, [C], num_beams=2, max_new_tokens=2)[0]
expect(by_greed.tokens, (A, A), "one beam is greedy")
expect(by_search.tokens, (B, A), "two beams keep B alive long enough")
expect(math.exp(by_greed.log_prob), leaves[A, A], "greedy's probability")
expect(math.exp(by_search.log_prob), leaves.max(), "two beams find the best of all nine")

# %% [markdown]
# Beam search keeps the `num_beams` likeliest beginnings instead of one. With as many beams as there are texts it is exhaustive;
# with fewer it may miss the best, as greedy did. It is the right tool where one answer is right and the question is which: a
# translation, a transcript. For open text the next section shows what it finds.

# %%
show(beam_search, start="for step in range", stop="going = [beam for _, beam in kept]")

# %% [markdown]
# ## Predict
#
# A coin falls heads with probability 0.6 and tails with 0.4. It is thrown 100 times. Which sequence of 100 throws is the
# likeliest of all? Before you run the next cell, guess three things: the chance to see exactly that sequence; how many times
# less likely one given sequence of 60 heads and 40 tails is; and the share of all outcomes that have between 50 and 70 heads.

# %% tags=["prediction"]
n_throws, heads = 100, 0.6
mode = heads**n_throws
typical = heads**60 * (1 - heads) ** 40
near = sum(math.comb(n_throws, n) * heads**n * (1 - heads) ** (n_throws - n) for n in range(50, 71))
coin_entropy = -(heads * math.log(heads) + (1 - heads) * math.log(1 - heads))
expect(-math.log(typical) / n_throws, coin_entropy, "a typical sequence's surprise a throw is the coin's entropy")
say(f"""
The likeliest sequence is 100 heads. You will see it with probability {mode:.0e}: never. One given sequence with 60 heads is
{mode / typical:,.0f} times *less* likely, and yet between 50 and 70 heads come in {near:.0%} of all trials, because there are
{math.comb(n_throws, 60):.0e} sequences with 60 heads and one with 100. The likeliest outcome is not like the outcomes. What all the
usual ones share is their surprise: {coin_entropy:.2f} nats a throw, the entropy. The mode has {-math.log(heads):.2f}.
""")

# %% [markdown]
# ## The likeliest text is not like text
#
# The same holds of a language model, and can be measured. Take text that people wrote, and text that the model wrote in several
# ways; ask the model for the surprise of each token and for the entropy of its own prediction at that place. Where tokens are
# drawn from the prediction the two agree on average, whatever the model: that is what an entropy is. Text by people agrees as
# far as the model has learnt how sure it may be. Searched text lies far below: the model finds it dull.
#
# That greedy text is *below* its entropy is no finding: $-\ln \max_i p_i \le H(p)$ at every place, whatever the model. Look at
# how far below it is, and at the entropy itself: beams also keep to places where the model is sure.

# %%
starts = ["def ", "impo", "clas", "for ", "if s", "rais", "with", "    "]
n_copies = pick(fast=6, full=40)
n_new = 56
sources = "".join(inspect.getsource(module) for module in (csv, json, textwrap))
ids = lm.tokenizer.encode("".join(c for c in sources if c in "\n" or " " <= c <= "~"))
people = torch.tensor(ids[: len(ids) // 60 * 60]).view(-1, 60)
texts = {
    "people": people[:: max(1, len(people) // (8 * n_copies))],
    "drawn at temperature 1": written(starts * n_copies, Sampling(temperature=1.0), n_new=n_new),
    "top-p 0.9": written(starts * n_copies, Sampling(temperature=1.0, top_p=0.9), n_new=n_new),
    "temperature 0.5": written(starts * n_copies, Sampling(temperature=0.5), n_new=n_new),
    "greedy": written(starts, Sampling(temperature=0.0), n_new=n_new),
}
beams = [beam_search(lm.model, lm.tokenizer.encode(start), num_beams=4, max_new_tokens=n_new)[0] for start in starts]
texts["beam search, 4 beams"] = torch.tensor(
    [lm.tokenizer.encode(start) + list(beam.tokens) for start, beam in zip(starts, beams, strict=True)]
)
measured = {name: tuple(x[:, 3:].mean().item() for x in surprises(rows)) for name, rows in texts.items()}
figure(
    plots.scatter(
        {name: ([own], [surprise]) for name, (surprise, own) in measured.items()},
        title="How surprising each text is to the model that predicts it",
        x_label="entropy of the prediction, nats a character",
        y_label="surprise, nats a character",
        has_diagonal=True,
    ),
    "On the line a text is as surprising as the model expects: drawn text is, text by people nearly; what was searched lies far below, "
    "and the beams' text lies to the left too, where the model is surer",
)
drawn, searched = measured["drawn at temperature 1"], measured["beam search, 4 beams"]
expect(drawn[0] - drawn[1], 0.0, "drawn text: surprise is entropy on average", tolerance=0.15)
assert -0.1 < measured["people"][0] - measured["people"][1] < 0.6
assert searched[0] < 0.6 * min(drawn[0], measured["people"][0])
assert measured["greedy"][0] < measured["greedy"][1] - 0.3
assert searched[1] < 0.75 * drawn[1], "beams stay where the model is sure"
say(f"""
The mean surprise of a character that people wrote is {measured["people"][0]:.2f} nats, of one that was drawn {drawn[0]:.2f}, of one
that four beams found {searched[0]:.2f}; the entropy of the predictions is {measured["people"][1]:.2f}, {drawn[1]:.2f} and
{searched[1]:.2f}. Temperature and top-p are a knob between the two ends. Turned down a little it keeps a weak
model on paths that it knows; turned down all the way, the text says nothing.
""")

# %% [markdown]
# ## Seeds, and rows that do not depend on each other
#
# One seed gives one text. In a batch there is a second demand, which many programs miss: what a prompt gets must not depend on
# which other prompts are in the batch, nor on when those end. So each row has its own stream of random numbers, made from the
# seed and its own prompt.

# %%
show(RowStreams)

# %%
together = lm.generate(["import ", "class "], max_new_tokens=40, seed=3)
alone = lm.generate("class ", max_new_tokens=40, seed=3)
expect(together[1], alone, "a prompt in company and alone")
twins = lm.generate(["class ", "class "], max_new_tokens=40, seed=3)
expect(twins[0], alone, "the first of two equal prompts is as it is alone")
assert twins[0] != twins[1], "equal prompts are told apart, so that several samples of one prompt differ"
assert lm.generate("class ", max_new_tokens=40, seed=4) != alone

# %% [markdown]
# ## Exercises
#
# **1. Effective choices.** Write `effective_choices(logits, temperature)`: the number $e^{H}$ of one distribution.


# %% tags=["starter"]
def effective_choices(logits: Tensor, temperature: float) -> float: ...  # the probabilities, then their entropy


# %% [markdown] tags=["hint"]
# The temperature divides the logits before the softmax. `log_softmax` gives you $\ln p$ without a logarithm of 0.


# %% tags=["solution"]
def effective_choices(logits: Tensor, temperature: float) -> float:
    log_probs = (logits / temperature).log_softmax(dim=-1)
    return float((-(log_probs.exp() * log_probs).sum()).exp())


# %% tags=["check"]
with checking("effective choices"):
    expect(effective_choices(torch.zeros(7), 1.0), 7.0, "seven equal tokens")
    sharp = torch.tensor([2.0, 0.0, 0.0])
    expect(effective_choices(sharp, 0.05), 1.0, "a low temperature leaves one choice")
    expected = torch.distributions.Categorical(logits=sharp / 2).entropy().exp()
    expect(effective_choices(sharp, 2.0), expected.item(), "temperature 2")

# %% [markdown]
# **2. A nucleus.** Write `nucleus(probs, top_p)`: the same probabilities where the fewest tokens that reach `top_p` together
# are kept, scaled up to a sum of 1, and the others are 0. The tokens are in no order.


# %% tags=["starter"]
def nucleus(probs: Tensor, top_p: float) -> Tensor:
    is_kept = probs >= top_p
    kept = probs * is_kept
    return kept / kept.sum()


# %% [markdown] tags=["hint"]
# Sort from the likeliest down, with `probs.sort(descending=True)`, and take the running sum with `cumsum`.

# %% [markdown] tags=["hint"]
# A token stays if the sum of those *before* it is still below `top_p`: so the one that crosses the line is in, and the first
# always. `torch.zeros_like(probs).scatter(0, order, values)` puts sorted values back into their places.


# %% tags=["solution"]
def nucleus(probs: Tensor, top_p: float) -> Tensor:
    ordered, order = probs.sort(descending=True)
    before = ordered.cumsum(dim=0) - ordered
    kept = torch.zeros_like(probs).scatter(0, order, ordered * (before < top_p))
    return kept / kept.sum()


# %% tags=["check"]
with checking("a nucleus"):
    expect(nucleus(torch.tensor([0.1, 0.6, 0.3]), 0.5), [0.0, 1.0, 0.0], "one token is enough for 0.5")
    expect(nucleus(torch.tensor([0.1, 0.6, 0.3]), 0.7), [0.0, 2 / 3, 1 / 3], "0.7 needs the second, whole")
    expect(nucleus(torch.tensor([0.25, 0.5, 0.25]), 0.5), [0.0, 1.0, 0.0], "one token that is 0.5 reaches 0.5")
    random = torch.randn(1, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    library = shaped_log_probs(random, Sampling(temperature=1.0, top_p=0.8), seen=[[]])[0].exp()
    expect(nucleus(random[0].softmax(dim=-1), 0.8), library, "forty tokens, as the library")

# %% [markdown]
# **3. Draw without probabilities.** Add independent noise to each logit and take the largest: with the right noise this *is*
# sampling, and no softmax is needed. The starter takes normal noise and is close, but wrong: the count finds it out. Find the
# right noise, from uniform numbers $u$.


# %% tags=["starter"]
def draw_by_noise(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    u = torch.rand(n, len(logits), generator=generator, dtype=torch.float64)
    noise = torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))
    return (logits + noise).argmax(dim=-1)


# %% [markdown] tags=["hint"]
# Think of exponential waiting times: if token $i$ rings after a time $E_i$ drawn with rate $p_i$, the first to ring is $i$ with
# probability $p_i$. An exponential time of rate $r$ is $-\ln(u) / r$.

# %% [markdown] tags=["hint"]
# The first to ring has the smallest $-\ln(u_i) / e^{\ell_i}$. Take $-\ln$ of that, which turns the smallest into the largest
# and the division into a sum.


# %% tags=["solution"]
def draw_by_noise(logits: Tensor, n: int, generator: torch.Generator) -> Tensor:
    u = torch.rand(n, len(logits), generator=generator, dtype=torch.float64)
    gumbel = -(-u.log()).log()
    return (logits + gumbel).argmax(dim=-1)


# %% tags=["check"]
with checking("draw without probabilities"):
    drawn_ids = draw_by_noise(logits[0], 20_000, torch.Generator().manual_seed(2))
    distance = surprise_of_counts(drawn_ids, logits[0].softmax(dim=-1))
    assert abs(distance) < 5, f"the counts lie {distance:.0f} standard deviations off the probabilities; expected less than 5"

# %% [markdown]
# **4. Beam search of your own.** Write `best_texts(table, start, num_beams, length)` for models like the one above, where
# `table[i, j]` is the probability of `j` after `i`: a list of at most `num_beams` pairs (tokens, log-probability), the best
# first. About half an hour; then watch how few beams are exact in most tables, and find one where two are not enough.


# %% tags=["starter"]
def best_texts(table: Tensor, start: int, num_beams: int, length: int) -> list[tuple[tuple[int, ...], float]]:
    return [((), 0.0)]  # one beam, still empty


# %% [markdown] tags=["hint"]
# At each of `length` steps, make every extension of every beam by every token, with its log-probability added.

# %% [markdown] tags=["hint"]
# The last token of a beam is `tokens[-1]`, or `start` while it is empty. Then sort by log-probability and keep `num_beams`:
# `sorted(longer, key=lambda beam: -beam[1])[:num_beams]`.


# %% tags=["solution"]
def best_texts(table: Tensor, start: int, num_beams: int, length: int) -> list[tuple[tuple[int, ...], float]]:
    going: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    for _ in range(length):
        longer = [
            ((*tokens, following), log_prob + math.log(table[(start, *tokens)[-1], following]))
            for tokens, log_prob in going
            for following in range(len(table))
        ]
        going = sorted(longer, key=lambda beam: -beam[1])[:num_beams]
    return going


# %% tags=["check"]
with checking("beam search of your own"):
    expect(len(best_texts(table, C, 2, 2)[0][0]), 2, "the length of the best text")
    for begin, n_beams in ((C, 1), (C, 2), (C, 9), (A, 2)):
        library_beams = beam_search(bigrams, [begin], num_beams=n_beams, max_new_tokens=4)
        mine = best_texts(table, begin, n_beams, 4)
        what = f"after {'ABC'[begin]} with {n_beams} beams"
        expect(mine[0][0], library_beams[0].tokens, f"the best text {what}")
        expect([beam[1] for beam in mine], [beam.log_prob for beam in library_beams], f"all log-probabilities {what}")

# %% [markdown]
# ## Pitfalls
#
# - *"My samples are garbage."* Look at the loss before you turn knobs: $e^{\mathrm{loss}}$ is the effective number of choices
#   per token, and a model of characters that has 10 left writes noise at any temperature. A loss that is far above the one its
#   recipe is known to reach is not a sampling problem.
# - *"My loop gets the wrong shape, or the wrong token."* A model returns logits for *every* position, each a prediction of the
#   token after it. Draw from the last row alone, `logits[:, -1]`.
# - *"It wrote better yesterday."* A model left in training mode draws its dropout anew at every token. Call `model.eval()`, as
#   `cutaway.load` does.
# - *"It never stops."* A model ends a text by drawing a token that stands for the end, and the program has to look for it; a
#   model that was trained without such a token, as this one of characters, goes on until you stop it.
# - *"Temperature 0 divides by 0."* It is a name for greedy; the library takes the largest logit, ties going to one of them.
# - *"Does the order of temperature and top-p matter?"* Yes: a high temperature first spreads the probability, so that a nucleus
#   of the same `top_p` takes more tokens. Two programs with equal settings and another order are two samplers.
# - *"Is the repetition penalty harmless?"* It divides positive logits and multiplies negative ones, so it depends on where 0
#   lies, which the softmax does not. Adding a constant to all logits leaves the model as it was and changes what the penalty
#   does.
# - *"Same seed, other text."* The seed fixes the random numbers, not the logits: another device, dtype or batch rounds them
#   otherwise. Once a number falls on the other side of a border the texts part, and never meet again.

# %%
hot = logits / 2.0
first = (shaped_log_probs(logits, Sampling(temperature=2.0, top_p=0.9), seen=[[]]) > -math.inf).sum()
last = (shaped_log_probs(logits, Sampling(temperature=1.0, top_p=0.9), seen=[[]]) > -math.inf).sum()
assert first > last, "at temperature 2 the same nucleus takes more tokens"
penalty = Sampling(temperature=1.0, repetition_penalty=1.5)
here, shifted = (shaped_log_probs(logits + c, penalty, seen=[[0]]).exp()[0, 0].item() for c in (0.0, 5.0))
expect((logits + 5.0).softmax(dim=-1), logits.softmax(dim=-1), "the model's own prediction does not change by a constant")
assert not lm.model.training
assert lm.model(tokens).shape[:2] == tokens.shape, "a row of logits for each position"
say(f'With all logits raised by 5, the penalty takes "the" from {here:.2f} to {shifted:.2f}.')

# %% [markdown]
# ## Read on
#
# [The KV cache](10_kv_cache.py): what makes writing one token after another affordable, and how a small model can draft for a
# large one without changing a single probability. Holtzman et al. 2020, *The Curious Case of Neural Text Degeneration* (arXiv
# 1904.09751), on top-p and on why likely text is dull. `cutaway generate --compare` shows one prompt under every strategy.

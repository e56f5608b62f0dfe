"""Factual recall: what is known of somebody is looked up where the name ends, and fetched where it is asked for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from cutaway import LanguageModel, ModelConfig, Transformer
from cutaway.experiments.frame import Check, Curves, Experiment, Outcome, Recipe, Scale, Trial
from cutaway.experiments.synthetic_facts import RELATIONS, Prompt, SyntheticFacts
from cutaway.interp.tracing import ROLES, AverageTrace, average_trace
from cutaway.training.step import next_token_loss

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_WORDS = {"mlp_out": "MLP outputs", "attn_out": "attention outputs", "resid_post": "states of the stream"}
_SITES = tuple(_WORDS)
_Place = Literal["last of the subject", "last of the prompt"]
_NAME_END: _Place = "last of the subject"
_PROMPT_END: _Place = "last of the prompt"
_Rivals = Literal["all", "the end", "the rest"]
"""With what a place is compared: all others, the prompt's last token, or all but that."""
_N_SHUFFLES = 20
_LEAST_LOSS = "least possible loss, nats a fact"
_MOST_LEAD = 100.0
_LEAST_SHARE = 0.25  # of the prompts must have a place, or it is no place of its own


@dataclass(frozen=True, kw_only=True)
class Config:
    """Who is there, and the model that learns what is said of them."""

    n_first: int = 8
    n_last: int = 30
    p_entry: float = 0.5
    """Of a text that is an entry of a register: a name, and all that is known in any order."""
    n_layers: int = 2
    d_model: int = 64
    n_heads: int = 4
    d_mlp: int = 256
    n_steps: int = 1200
    batch_size: int = 96
    weight_decay: float = 0.1
    """Without it the last layer's MLP has more effect where the fact is asked for."""
    n_traced: int = 48
    """How many facts are traced."""
    n_draws: int = 4
    """In how many corrupted runs each."""


class _Trained(NamedTuple):
    facts: SyntheticFacts
    lm: LanguageModel
    curves: Curves


class _Effects(NamedTuple):
    """What restoring each state of a prompt brings back, and where in the prompt the name begins and ends, and where all does."""

    by_pos: Float[Tensor, "layer pos"]
    name_start: int
    name_end: int
    prompt_end: int

    def at(self, place: _Place) -> int:
        """Return the position of a place."""
        return self.name_end if place == _NAME_END else self.prompt_end


class _Asked(NamedTuple):
    """A fact that is asked for, and the same sentence about someone else, whose name is as long."""

    prompt: Prompt
    other: Prompt


def run(config: Config, trial: Trial) -> Outcome:
    """Train a model, trace facts that it knows, and trace them again with states of other people, and before training.

    Of a model that knows none, any facts are traced, so that what failed is a check.
    """
    trained = _train(config, trial)
    asked = _asked(trained.facts, trial.generator("asked"))
    is_known = _are_known(trained.lm, [each.prompt for each in asked])
    known = [each for each, is_right in zip(asked, is_known, strict=True) if is_right] or asked
    chosen = torch.randperm(len(known), generator=trial.generator("traced"))[: config.n_traced].tolist()
    traced = [known[place] for place in chosen]
    untrained = LanguageModel(_model(config, trained.facts, trial), trained.facts.tokenizer)
    clean = _traced(config, trained.lm, traced)
    others = _traced(config, trained.lm, traced, sources=[each.other.text for each in traced])
    before = _traced(config, untrained, traced)
    return Outcome(
        checks=(
            Check(
                name="share of facts recalled in sentences in which they were never told",
                at_least=0.95,
                value=sum(is_known) / len(is_known),
                null=trained.facts.guess(by=-1),
                null_of="guessed by family name",
            ),
            Check(
                name="probability that a fact loses by noise on the name",
                at_least=0.4,
                value=clean.total_effects.mean().item(),
                null=before.total_effects.mean().item(),
                null_of="untrained",
            ),
            *_place_checks(clean, others, trial),
        ),
        numbers=_numbers(config, trained, clean),
        arrays=_arrays(trained, clean, others),
        models={"factual-recall": trained.lm},
    )


def _model(config: Config, facts: SyntheticFacts, trial: Trial) -> Transformer:
    shape = ModelConfig(
        d_vocab=facts.tokenizer.d_vocab, n_ctx=24, n_layers=config.n_layers, n_heads=config.n_heads, d_model=config.d_model,
        d_mlp=config.d_mlp, position="rotary", rotary_base=100.0, tie_embeddings=False,
    )  # fmt: skip
    model = Transformer(shape, generator=trial.generator("weights"))
    torch.nn.init.normal_(model.embed.W_E, std=0.05, generator=trial.generator("embedding"))
    return model


def _train(config: Config, trial: Trial) -> _Trained:
    facts = SyntheticFacts.drawn(config.n_first, config.n_last, generator=trial.generator("facts"))
    model = _model(config, facts, trial)
    lm = LanguageModel(model, facts.tokenizer)
    watched = [each.prompt for each in _asked(facts, trial.generator("watched"))[::5]]

    def loss(step: int) -> Float[Tensor, ""]:
        texts = facts.texts(config.batch_size, p_entry=config.p_entry, generator=trial.generator("batch", step))
        return next_token_loss(model, texts.tokens, texts.targets)

    recipe = Recipe(
        n_steps=config.n_steps, learning_rate=5e-3, beta2=0.98, n_warmup_steps=100, n_decay_steps=round(0.4 * config.n_steps),
        weight_decay=config.weight_decay, max_grad_norm=1.0,
    )  # fmt: skip
    curves = trial.learn(
        "model", model, loss, recipe, watch=lambda _: {"known": sum(_are_known(lm, watched)) / len(watched)}, watch_every=50
    )
    return _Trained(facts, lm, curves)


def _asked(facts: SyntheticFacts, generator: torch.Generator) -> list[_Asked]:
    """Return every fact in the frame that it was never told in, and beside it the same sentence about someone else."""
    asked = []
    for person, frames in enumerate(facts.held_out.tolist()):
        rest = [each for each in range(len(facts.people)) if each != person]
        for relation, frame in enumerate(frames):
            differs = facts.values[:, relation] != facts.values[person, relation]
            alike = [each for each in rest if differs[each] and len(facts.people[each]) == len(facts.people[person])]
            named = _drawn(rest, generator), _drawn(rest, generator)
            about = person, _drawn(alike, generator)
            asked.append(_Asked(*(facts.prompt(each, relation, frame=frame, others=named) for each in about)))
    return asked


def _drawn(people: Sequence[int], generator: torch.Generator) -> int:
    return people[int(torch.randint(len(people), (), generator=generator))]


@torch.no_grad()
def _are_known(lm: LanguageModel, prompts: Sequence[Prompt]) -> list[bool]:
    """Return of which prompts the answer is the likeliest next word."""
    rows = [lm.tokenizer.encode(f"{each.text} {each.answer}") for each in prompts]
    is_known = [False] * len(rows)
    for length in {len(row) for row in rows}:
        places = [place for place, row in enumerate(rows) if len(row) == length]
        tokens = torch.tensor([rows[place] for place in places])
        right = lm.model(tokens[:, :-1])[:, -1].argmax(-1) == tokens[:, -1]
        for place, is_right in zip(places, right.tolist(), strict=True):
            is_known[place] = is_right
    return is_known


def _traced(config: Config, lm: LanguageModel, asked: Sequence[_Asked], *, sources: Sequence[str] | None = None) -> AverageTrace:
    """Trace these facts: noise of three standard deviations on the name, one state at a time restored."""
    prompts = [each.prompt for each in asked]
    return average_trace(
        lm, [each.text for each in prompts], [each.name for each in prompts], [f" {each.answer}" for each in prompts],
        sources=sources, sites=_SITES, window=1, noise=3.0, n_draws=config.n_draws,
    )  # fmt: skip


def _effects(found: AverageTrace, site: str) -> list[_Effects]:
    """Return what restoring each state of each prompt brings back, with the places that count."""
    return [_Effects(each.effects[site], each.places[0], each.places[-1], each.n_tokens - 1) for each in found.traces]


def _shuffled(effects: Sequence[_Effects], generator: torch.Generator) -> list[_Effects]:
    """Return effects with the positions of each prompt in random order, from its name on: before it nothing changes."""
    mixed = []
    for each in effects:
        n_before = each.name_start
        order = n_before + torch.randperm(each.by_pos.shape[1] - n_before, generator=generator)
        mixed.append(each._replace(by_pos=torch.cat([each.by_pos[:, :n_before], each.by_pos[:, order]], dim=1)))
    return mixed


def _lead(effects: Sequence[_Effects], place: _Place, rivals: _Rivals) -> float:
    """Return the mean effect at a place in its best layer over the largest mean effect at its rivals.

    Places elsewhere are every distance from where the name ends, and every distance from where the prompt ends. At most 100, for
    what is next may bring back nothing, and 0 where the place itself brings back nothing.
    """
    own = torch.stack([each.by_pos[:, each.at(place)] for each in effects]).mean(0).max()
    columns: dict[tuple[str, int], list[Tensor]] = {}
    for each in effects:
        for pos, column in enumerate(each.by_pos.unbind(1)):
            if pos != each.at(place) and (rivals == "all" or (pos == each.prompt_end) == (rivals == "the end")):
                for counted_from in (_NAME_END, _PROMPT_END):
                    columns.setdefault((counted_from, pos - each.at(counted_from)), []).append(column)
    means = [torch.stack(some).mean(0).max() for some in columns.values() if len(some) >= _LEAST_SHARE * len(effects)]
    return 0.0 if own <= 0 else (own / torch.stack([*means, own / _MOST_LEAD]).max()).item()


def _chance_lead(effects: Sequence[_Effects], place: _Place, rivals: _Rivals, generator: torch.Generator) -> float:
    """Return the median lead with positions shuffled, over several shuffles: of ratios, a mean is of the few that are great."""
    return statistics.median(_lead(_shuffled(effects, generator), place, rivals) for _ in range(_N_SHUFFLES))


def _share(found: AverageTrace, site: str, place: _Place) -> float:
    """Return the average effect at a place, in its best layer, as a share of the average total effect."""
    return found.recovery[site][:, found.roles.index(place)].max().item()


def _place_checks(clean: AverageTrace, others: AverageTrace, trial: Trial) -> Iterator[Check]:
    """Yield the checks that MLP outputs bring facts back where names end, and attention outputs where facts are asked for."""
    shares: dict[str, tuple[str, _Place, float]] = {
        "MLP output restored where the name ends": ("mlp_out", _NAME_END, 0.15),
        "attention output restored where the prompt ends": ("attn_out", _PROMPT_END, 0.4),
    }
    for name, (site, place, least) in shares.items():
        yield Check(
            name=f"{name}: share of what noise takes that comes back", at_least=least,
            value=_share(clean, site, place), null=_share(others, site, place), null_of="outputs about others",
        )  # fmt: skip
    leads: dict[str, tuple[str, _Place, _Rivals, float]] = {
        "MLP output restored where the name ends: effect over that at any place but the prompt's end": (
            "mlp_out",
            _NAME_END,
            "the rest",
            3.0,
        ),
        "MLP output restored where the name ends: effect over that at the prompt's end": ("mlp_out", _NAME_END, "the end", 3.0),
        "attention output restored where the prompt ends: effect over that at any other place": (
            "attn_out",
            _PROMPT_END,
            "all",
            1.2,
        ),
    }
    for name, (site, place, rivals, least) in leads.items():
        effects = _effects(clean, site)
        yield Check(
            name=name, at_least=least, value=_lead(effects, place, rivals),
            null=_chance_lead(effects, place, rivals, trial.generator("shuffled", site, rivals)), null_of="positions shuffled",
        )  # fmt: skip


def _least_loss(p_entry: float) -> float:
    """Return the loss, in nats a fact, of who knows all facts: entries tell theirs in an order that cannot be known."""
    n_relations = len(RELATIONS)
    share = n_relations * p_entry / (n_relations * p_entry + 1 - p_entry)
    return share * math.log(math.factorial(n_relations)) / n_relations


def _numbers(config: Config, trained: _Trained, clean: AverageTrace) -> dict[str, float]:
    return {
        _LEAST_LOSS: _least_loss(config.p_entry),
        "facts guessed by the first name": trained.facts.guess(by=0),
        "probability of traced facts": sum(each.clean for each in clean.traces) / len(clean.traces),
        **{
            f"{site}, layer {layer}, {role}: share brought back": share
            for site in ("mlp_out", "attn_out")
            for layer, row in enumerate(clean.recovery[site].tolist())
            for role, share in zip(clean.roles, row, strict=True)
            if role in (_NAME_END, _PROMPT_END)
        },
    }


def _arrays(trained: _Trained, clean: AverageTrace, others: AverageTrace) -> dict[str, Float[Tensor, "..."]]:
    """Return what figures are drawn of: a curve, and the shares that states bring back by layer and role."""
    return {
        "known": trained.curves["known"],
        "loss": trained.curves["loss"],
        "roles": torch.tensor([ROLES.index(role) for role in clean.roles]),
        **{site: clean.recovery[site] for site in _SITES},
        **{f"{site} of others": others.effects[site] / clean.total_effects.mean() for site in _SITES},
    }


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw how facts are learnt, and what restoring each kind of state brings back, by layer and place."""
    from cutaway.plots import Panel, heatmap, panels

    arrays = outcome.arrays
    roles = [ROLES[role] for role in arrays["roles"].tolist()]
    limit = max(arrays[site].abs().max().item() for site in _SITES)
    losses = {"loss": tuple(arrays["loss"].tolist())}
    ends = [losses["loss"][0][0], losses["loss"][0][-1]]
    losses["least possible"] = (ends, [outcome.numbers[_LEAST_LOSS]] * 2)
    figures = {
        "Learning": panels(
            [
                Panel("Loss, and the least possible", "nats a fact", losses, ["loss", "least possible"]),
                Panel(
                    "Recalled in sentences in which they were never told", "share of facts",
                    {"recalled": tuple(arrays["known"].tolist())}, ["recalled"], least=(0.0, 1.0),
                ),
            ],
            title="Facts are learnt, also for sentences in which they were never told", x_label="step",
        )
    }  # fmt: skip
    for site, words in _WORDS.items():
        for kind, whose in (("", "as they were"), (" of others", "of someone else")):
            values = 100 * arrays[site + kind]
            figures[f"Restored {words}{kind}"] = heatmap(
                values.numpy(), rows=[str(layer) for layer in range(len(values))], columns=roles,
                title=f"{words[0].upper()}{words[1:]}, {whose}",
                row_title="layer", label="% brought back", signed=True, limit=100 * limit,
            )  # fmt: skip
    return figures


EXPERIMENT = Experiment(
    id="factual-recall",
    title="Factual recall and causal tracing",
    claim=(
        "Of people whom only two names together tell apart a model learns facts, from sentences that name others too and from a "
        "register. After noise on the name, one restored MLP output brings at least three times as much back where the name ends as "
        "anywhere else, and one restored attention output most at the prompt's end, next where the name ends and the first layer "
        "gathers both names."
    ),
    source="Meng et al. 2022, Locating and Editing Factual Associations in GPT",
    scales={
        "small": Scale(config=Config(), minutes=0.8),
        "reduced": Scale(config=Config(n_first=6, n_last=26, n_steps=650, n_traced=24, n_draws=2)),
    },
    run=run,
    draw=draw,
    captions={
        "Learning": (
            "Above: the loss nears the least there can be for who knows all facts. Below: facts are recalled in sentences in which "
            "they were never told."
        ),
        "Restored MLP outputs": (
            "Noise on the name makes the model forget a fact. How much of its probability comes back when the MLP's output at one "
            "place and in one layer is what it was without noise: most where the name ends."
        ),
        "Restored MLP outputs of others": (
            "A control: the MLP outputs that are put back are those of the same sentence about someone else, and bring nothing "
            "back."
        ),
        "Restored attention outputs": (
            "The same for attention: most comes back at the end of the prompt, and where the name ends in the first layer, which "
            "gathers both names there."
        ),
        "Restored attention outputs of others": "The control for attention, with outputs from sentences about others.",
        "Restored states of the stream": (
            "The same for the whole residual stream: what is restored matters where the name ends at first, and at the end of the "
            "prompt after the last layer."
        ),
        "Restored states of the stream of others": "The control for the stream, with states from sentences about others.",
    },
)

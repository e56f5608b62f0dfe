"""Two lenses: what layers say is read better through an affine map that was trained for each than as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

from cutaway import LanguageModel, Transformer, run_with_cache
from cutaway.experiments.frame import Check, Experiment, Outcome, Scale, Trial
from cutaway.experiments.text_model import TextModel, Trained, spread_windows, train
from cutaway.interp.lens import TunedLens, lens_scores, logit_lens, mean_kl, state_names, tuned_lens
from cutaway.interp.lens.states import kl_nats

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = ["EXPERIMENT", "Config", "run", "draw"]

_N_BIAS_STEPS = 60  # of a quasi-Newton method: the KL no longer falls
_N_SHOWN = 18  # characters in the figure


@dataclass(frozen=True, kw_only=True)
class Config:
    """The model, how its lens is trained, and on how much text that neither has seen both lenses are judged."""

    model: TextModel = field(default_factory=TextModel)
    n_lens_steps: int = 250
    lens_batch_size: int = 16
    n_judged: int = 128
    """Windows of held-out text."""


class _Read(NamedTuple):
    """KL(final || what was read) in nats at every state, mean over held-out text; the last state is the end."""

    logit_lens: Float[Tensor, " state"]
    tuned_lens: Float[Tensor, " state"]
    biases_alone: Float[Tensor, " state"]
    """Each state with a vector added that was fitted for it, and nothing turned or stretched."""
    neighbours: Float[Tensor, " state"]
    """Each state through the translator of the next, the last that has one through that of the state before."""
    other_states: Float[Tensor, " state"]
    """Through its own translator the state of another window."""
    constant: float
    """Of the model's mean answer, the same at every position."""


def run(config: Config, trial: Trial) -> Outcome:
    """Train a model and its lens, and read held-out text through both lenses."""
    trained = train(trial, config.model)
    n_pos = config.model.n_ctx
    lens = TunedLens.train(
        trained.lm, trained.learnt, n_steps=config.n_lens_steps, batch_size=config.lens_batch_size, n_pos=n_pos, seed=trial.seed,
        progress=lambda n_done, n_steps, kl: trial.report(n_done, n_steps, f"tuned lens: KL {kl:.3g}"),
    )  # fmt: skip
    judged = spread_windows(trained.held_out, n_pos, n_windows=config.n_judged)
    read = _read(trained, lens, judged)
    apart = _apart(trained.lm, lens, judged)
    shown = judged[len(judged) // 2, :_N_SHOWN]
    readings = {
        "logit lens": logit_lens(trained.lm, shown, top_k=1),
        "tuned lens": tuned_lens(trained.lm, shown, lens, top_k=1),
    }
    return Outcome(
        checks=tuple(_checks(read)),
        numbers={
            "nats a character on held-out text": trained.held_out_loss(config.n_judged),
            "KL of the mean answer from the model's, nats": read.constant,
            "furthest log-probability of the tuned lens from the model's, last layer (0 by construction)": apart[-1].item(),
            "the same at the layer before": apart[-2].item(),
            "KL with the neighbour's translator over that of the logit lens, at the worst": _worst(
                read.neighbours, read.logit_lens
            ),
            **{
                f"KL {where}, {name}": getattr(read, name.replace(" ", "_"))[state].item()
                for state, where in enumerate(_places(len(read.tuned_lens)))
                for name in ("logit lens", "tuned lens")
            },
        },
        arrays={
            **{name.replace("_", " "): torch.as_tensor(values) for name, values in read._asdict().items()},
            **{f"{name} probs": reading.top_probs[..., 0] for name, reading in readings.items()},
        },
        texts={
            "shown": list(trained.lm.tokenizer.decode(shown.tolist())),
            **{name: ["".join(words[0] for words in of_state) for of_state in reading.words] for name, reading in readings.items()},
        },
        models={"stdlib-4l": trained.lm},
    )


def _read(trained: Trained, lens: TunedLens, judged: Int[Tensor, "window pos"]) -> _Read:
    model, names = trained.lm.model, state_names(trained.lm.config)
    n_layers = len(lens.A)
    biases = _fitted_biases(model, spread_windows(trained.learnt, judged.shape[1], n_windows=len(judged)))
    neighbours = [*range(1, n_layers), n_layers - 2, n_layers]

    def with_bias(resid: Float[Tensor, "... d_model"], state: int) -> Float[Tensor, "... d_model"]:
        return resid if state == n_layers else resid + biases[state]

    def of_the_neighbour(resid: Float[Tensor, "... d_model"], state: int) -> Float[Tensor, "... d_model"]:
        return lens.translate(resid, neighbours[state])

    def of_another_window(resid: Float[Tensor, "window ..."], state: int) -> Float[Tensor, "window ..."]:
        return lens.translate(resid.roll(1, dims=0), state)

    return _Read(
        logit_lens=mean_kl(model, judged, names),
        tuned_lens=mean_kl(model, judged, names, translate=lens.translate),
        biases_alone=mean_kl(model, judged, names, translate=with_bias),
        neighbours=mean_kl(model, judged, names, translate=of_the_neighbour),
        other_states=mean_kl(model, judged, names, translate=of_another_window),
        constant=_constant(trained, judged),
    )


def _fitted_biases(model: Transformer, learnt: Int[Tensor, "window pos"]) -> Float[Tensor, "layer d_model"]:
    """Return for each state but the last the vector which, added to it, brings its KL on these windows to the least."""
    names = state_names(model.config)
    _, cache = run_with_cache(model, learnt, names)
    *states, final = (rearrange(cache[name].detach(), "window pos d_model -> (window pos) d_model") for name in names)
    resid, answer = torch.stack(states), model.unembed(final).detach().log_softmax(-1)
    biases = torch.zeros_like(resid[:, :1]).requires_grad_()
    optimizer = torch.optim.LBFGS([biases], max_iter=_N_BIAS_STEPS, line_search_fn="strong_wolfe")

    def kl() -> Float[Tensor, ""]:
        optimizer.zero_grad()
        total: Tensor = kl_nats(answer, model.unembed(resid + biases).log_softmax(-1)).mean(-1).sum()
        total.backward(inputs=[biases])
        return total

    optimizer.step(kl)
    return biases.detach()[:, 0]


@torch.no_grad()
def _constant(trained: Trained, judged: Int[Tensor, "window pos"]) -> float:
    """Return the KL from the model's answers, in nats, of its mean answer on the text that it learnt."""
    model, n_pos = trained.lm.model, judged.shape[1]
    learnt = spread_windows(trained.learnt, n_pos, n_windows=len(judged))
    mean = model(learnt).softmax(-1).mean((0, 1)).log()
    return kl_nats(model(judged).log_softmax(-1), mean).mean().item()


@torch.no_grad()
def _apart(lm: LanguageModel, lens: TunedLens, judged: Int[Tensor, "window pos"]) -> Float[Tensor, " state"]:
    """Return how far the tuned lens's log-probability of the next character is at most from the model's own, at every state."""
    scores = lens_scores(lm, judged, state_names(lm.config), translate=lens.translate)
    own = lm.model(judged).log_softmax(-1).gather(-1, scores.followed[..., None])[..., 0]
    apart: Tensor = (scores.log_probs - own).abs().amax((1, 2))
    return apart


def _checks(read: _Read) -> Iterator[Check]:
    yield Check(
        name="KL from the model's answer, tuned lens over logit lens, at the worst layer before the last", at_most=0.6,
        value=_worst(read.tuned_lens, read.logit_lens), null=_worst(read.biases_alone, read.logit_lens),
        null_of="biases alone",
    )  # fmt: skip
    yield Check(
        name="KL from the model's answer, tuned lens over the mean answer, at the worst layer before the last", at_most=0.9,
        value=_worst(read.tuned_lens, torch.tensor(read.constant)), null=_worst(read.other_states, torch.tensor(read.constant)),
        null_of="another text's states",
    )  # fmt: skip


def _worst(one: Float[Tensor, " state"], other: Float[Tensor, "..."]) -> float:
    return (one / other)[:-1].max().item()


def _places(n_states: int) -> list[str]:
    return ["at the embedding", *(f"after layer {layer}" for layer in range(n_states - 1))]


def draw(outcome: Outcome) -> Mapping[str, Figure]:
    """Draw how far both lenses are from the model's answer, and what each says along a stretch of held-out text."""
    from cutaway.plots import lines, token_grid

    arrays = outcome.arrays
    n_states = len(arrays["logit lens"])
    places = range(-1, n_states - 1)
    controls = {"biases alone": "biases alone", "neighbours": "a neighbour's map", "other states": "another text's states"}
    series = {
        said: (list(places), arrays[name].tolist())
        for name, said in {"tuned lens": "tuned lens", "logit lens": "logit lens", **controls}.items()
    }
    series["the mean answer"] = (list(places), [arrays["constant"].item()] * n_states)
    grids = {
        name.capitalize(): token_grid(
            [list(said) for said in outcome.texts[name]], arrays[f"{name} probs"].numpy(),
            rows=["embedding", *map(str, places[1:])], columns=outcome.texts["shown"], title=f"What each layer says next: {name}",
            label="probability", row_title="layer", column_title="text held out",
        )
        for name in ("logit lens", "tuned lens")
    }  # fmt: skip
    return {
        "Distance from the model's answer": lines(
            series, title="How far from the model's answer, on text held out", x_label="layer (the embedding is at -1)",
            y_label="KL(model || lens), nats",
        ),
        **grids,
    }  # fmt: skip


EXPERIMENT = Experiment(
    id="lens",
    title="The logit lens and the tuned lens",
    claim=(
        "Read through an affine map trained for it, every layer before the last is nearer to the model's answer, on text that neither "
        "model nor map has seen, than the unembedding alone reads it: at the worst layer by more than a bias fitted for each layer "
        "brings it nearer. At the last layer both are the model by construction."
    ),
    source="Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens; nostalgebraist 2020",
    scales={
        "small": Scale(config=Config(), minutes=0.3),
        "reduced": Scale(config=Config(model=TextModel(n_steps=120), n_lens_steps=80, lens_batch_size=8, n_judged=32)),
    },
    run=run,
    draw=draw,
    captions={
        "Distance from the model's answer": (
            "How far what is read off each layer is from what the model says in the end; lower is better. Before the last layer the "
            "tuned lens is nearer than the logit lens. Beside them stand controls: a bias alone for each layer, the map of a "
            "neighbouring layer, the states of another text, and the mean answer whatever the text."
        ),
        "Logit lens": (
            "The likeliest next character by the unembedding alone after each layer (rows), for each character of a text held out "
            "(columns). The bottom row is the model's own answer."
        ),
        "Tuned lens": "The same through the map that was trained for each layer: upper rows come nearer to the bottom one.",
    },
)

"""Everything that decides a training run, as one immutable value."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, Self

from cutaway.assets import HUB_DOCUMENTS
from cutaway.config import ModelConfig
from cutaway.data import Corpus, DocumentShards
from cutaway.runs import Run
from cutaway.runtime import SEEDS_END
from cutaway.values import check_names, check_types

__all__ = ["TrainConfig", "TRAIN_PRESETS", "LOOKING", "expected_loss"]

LOOKING = {"validate_every", "sample_every", "save_every", "log_every", "tensorboard", "watch", "watch_every"}
"""The fields of TrainConfig that say how often a run is looked at and what is kept: they change nothing of what is learnt."""


_Dtype = Literal["auto", "float32", "bfloat16"]
_Parallel = Literal["ddp", "fsdp2"]
_Optimizer = Literal["adamw", "muon"]
_Schedule = Literal["cosine", "linear"]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What to train, on what, how long and how; presets by `TrainConfig.preset("shakespeare-char")`.

    Raises ValueError for values that cannot work.
    """

    model: ModelConfig
    """The model's shape; its `d_vocab` is replaced by the tokenizer's."""
    from_model: str | None = None
    """The model to go on from, whatever `cutaway.load` takes, with its shape and tokenizer; new weights unless given."""
    from_config: str | None = None
    """The shape of a TransformerLens state to go on from, which does not hold it: a config.json of cutaway's."""
    name: str = "run"
    """What the run directory is called unless `out` is given: in a preset after the preset, or after the text that replaces its own."""
    data: str = "tinyshakespeare"
    """A text file, a folder, a glob, a corpus (tinyshakespeare, shakespeare, stdlib), a folder of token shards, or fineweb-edu."""
    cap_bytes: int | None = None
    """Of fineweb-edu, as many documents as make token shards of so many bytes; None for all."""
    tokenizer: str = "char"
    """char, bpe-N (N tokens, trained on the data), gpt2, cl100k, or a tokenizer.json; own is from_model's."""
    out: str | None = None
    """The run directory; a new one under ./runs unless given."""
    n_steps: int = 2000
    """How many times the weights are moved."""
    batch_size: int = 12
    """Windows of text that are read at once."""
    n_window: int | None = None
    """Tokens in a window; the model's n_ctx unless given."""
    n_first_window: int | None = None
    """Tokens of the pieces that windows are cut into at first, which double in equal stretches of the steps; None for no cutting."""
    n_accumulate: int = 1
    """Batches whose gradients are averaged before each step."""
    learning_rate: float = 1e-3
    """The highest, reached after warming up."""
    min_learning_rate: float = 1e-4
    """Where the rate ends, at the last step."""
    schedule: _Schedule = "cosine"
    """How the rate falls after warming up: as half a cosine, or in a straight line."""
    n_warmup_steps: int = 100
    """Steps in which the learning rate rises from 0."""
    optimizer: _Optimizer = "adamw"
    """What moves the weights: adamw, or muon, which moves matrices of the blocks by orthogonal ones, and the rest as adamw does."""
    weight_decay: float = 0.1
    """Of matrices alone."""
    beta1: float = 0.9
    """How slowly the mean of the gradients moves."""
    beta2: float = 0.99
    """How slowly AdamW's mean of the squared gradients moves."""
    max_grad_norm: float | None = 1.0
    """Longer gradients are scaled down to this norm; None leaves them."""
    seed: int = 0
    """Fixes the initial weights, the batches, dropout and the samples."""
    validation_fraction: float = 0.1
    """How much of the text, at its end, is kept for validation; of documents those that a hash chooses."""
    n_validation_windows: int | None = None
    """Windows of the validation text to average over, spread evenly; all of them unless given."""
    validate_every: int = 250
    """Steps between validation losses."""
    sample_every: int = 1000
    """Steps between text samples; 0 for none."""
    save_every: int = 500
    """Steps between checkpoints, all of which are kept."""
    log_every: int = 1
    """Steps between lines of metrics.jsonl."""
    device: str = "auto"
    """cpu, cuda, cuda:1 or mps; auto takes the fastest present."""
    dtype: _Dtype = "auto"
    """What matrix products are computed in: auto is bfloat16 where the device has it. All that adds up stays in float32."""
    compile: bool = True
    """Compile the step where there is a C++ compiler or a GPU; without one it runs as it is."""
    parallel: _Parallel = "ddp"
    """How torchrun's processes train one model: ddp has it whole in each of them, fsdp2 shares it out, and validates in dtype, ddp in
    float32. One process has it whole."""
    tensorboard: bool = False
    """Write the numbers for TensorBoard too."""
    watch: tuple[str, ...] = ()
    """What of the inside to log as it learns: induction, previous_token, duplicate_token, first_token, copying, repetition, icl,
    attention_entropy, residual_norms, logit_lens, norms."""
    watch_every: int | None = None
    """Steps between watched values; unless given, each validation, and each time that the steps have grown by a fifth."""

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("n_steps", "batch_size", "n_accumulate", "validate_every", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 1")
        if self.watch_every is not None and self.watch_every < 1:
            raise ValueError(f"watch_every is {self.watch_every}; expected at least 1, or None for more often at the beginning")
        for name in ("n_warmup_steps", "sample_every", "weight_decay", "min_learning_rate"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at least 0")
        if not 0 <= self.seed < SEEDS_END:
            raise ValueError(f"seed is {self.seed}; expected at least 0 and less than 2^64")
        if not self.model.is_causal:
            raise ValueError(
                "is_causal is False, and a model that reads both ways sees what it would learn to predict: train a causal one"
            )
        if self.n_window is not None and not 1 <= self.n_window <= self.model.n_ctx:
            raise ValueError(f"n_window is {self.n_window}; expected at least 1 and at most the model's n_ctx, {self.model.n_ctx}")
        if self.n_first_window is not None and self.n_first_window not in (
            self.window >> n for n in range(self.window.bit_length())
        ):
            raise ValueError(
                f"n_first_window is {self.n_first_window}; expected the window, {self.window}, halved some number of times"
            )
        if self.tokenizer == "own" and self.from_model is None:
            raise ValueError("tokenizer is 'own', and a new model has none of its own: give from_model, or another tokenizer")
        if self.from_config is not None and self.from_model is None:
            raise ValueError(
                f"from_config is {self.from_config!r}, the shape of a model to go on from: give from_model (--from) too"
            )
        if self.cap_bytes is not None and self.cap_bytes < 1:
            raise ValueError(f"cap_bytes is {self.cap_bytes}; expected at least 1, or None for all documents")
        if self.n_validation_windows is not None and self.n_validation_windows < 1:
            raise ValueError(f"n_validation_windows is {self.n_validation_windows}; expected at least 1, or None for all")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; expected more than 0")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise ValueError(f"max_grad_norm is {self.max_grad_norm}; expected more than 0, or None for no clipping")
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise ValueError(f"beta1 and beta2 are {self.beta1} and {self.beta2}; expected at least 0 and less than 1")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"validation_fraction is {self.validation_fraction}; expected between 0 and 1")

    @classmethod
    def preset(cls, name: str, /, **changes: Any) -> Self:
        """Return a recipe by name, with `changes` to its fields and its model's; raises ValueError for a name that is not known.

        >>> TrainConfig.preset("shakespeare-char", n_steps=500, n_layers=2).model.n_layers
        2
        """
        if name not in TRAIN_PRESETS:
            raise ValueError(f"there is no training preset {name!r}; there are {', '.join(TRAIN_PRESETS)}")
        of_model = {field.name for field in fields(ModelConfig)}
        if changes.get("from_model", TRAIN_PRESETS[name].from_model) is not None:
            changes = {"tokenizer": "own"} | changes
            if shape := sorted((of_model - {"dropout"}) & changes.keys()):
                raise ValueError(
                    f"a model to go on from has its own {', '.join(shape)}: leave out what is given, or from_model (--from)"
                )
        changes = _settings_of(changes.get("data")) | changes
        model = TRAIN_PRESETS[name].model.replace(**{name: value for name, value in changes.items() if name in of_model})
        rest = {name: value for name, value in changes.items() if name not in of_model}
        named = (
            {"name": _corpus_name(rest["data"]) or name}
            if rest.get("data", TRAIN_PRESETS[name].data) != TRAIN_PRESETS[name].data
            else {}
        )
        return cls.from_dict({**TRAIN_PRESETS[name].to_dict(), "model": model, **named, **rest})

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build a configuration from JSON's values; raises ValueError for a field that is unknown."""
        check_names(values, cls, "training")
        model, watch = values["model"], values.get("watch", ())
        model = ModelConfig.from_dict(model) if isinstance(model, dict) else model
        return cls(**{**values, "model": model, "watch": tuple(watch) if isinstance(watch, list) else watch})

    @classmethod
    def of_run(cls, run: Run) -> Self:
        """Return what a run was begun with; raises ValueError naming the file for a configuration that was changed or damaged."""
        try:
            return cls.from_dict({**run.recipe, "model": run.model_config})
        except ValueError as error:
            raise ValueError(f"{run.file('config.json')}: {error}") from None

    def to_dict(self) -> dict[str, Any]:
        """Return every field as a value that JSON can hold."""
        return {**asdict(self), "watch": list(self.watch)}

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed."""
        return replace(self, **changes)

    @property
    def n_tokens_per_step(self) -> int:
        """How many tokens one step learns from."""
        return self.batch_size * self.n_accumulate * self.window

    @property
    def window(self) -> int:
        """Tokens in a window of training or validation text."""
        return self.n_window or self.model.n_ctx


_CHAR = TrainConfig(
    name="shakespeare-char",
    model=ModelConfig.preset("shakespeare-char"),
    learning_rate=2e-3,  # nanoGPT's is 1e-3: in as many steps twice that reaches 1.83 instead of 1.91
    min_learning_rate=1e-4,
    n_validation_windows=500,
)
_ATTENTION_ONLY: dict[str, Any] = {"tokenizer": "bpe-4096", "batch_size": 8, "weight_decay": 0.01, "n_validation_windows": 100}

_FINEWEB = TrainConfig(
    name="fineweb-quick",
    model=ModelConfig.preset("fineweb"),
    data="fineweb-edu",
    cap_bytes=10**9,
    tokenizer="cl100k",
    n_steps=500,
    batch_size=8,
    n_accumulate=16,
    learning_rate=1e-3,
    min_learning_rate=1e-4,
    n_warmup_steps=25,  # a twentieth of the steps
    beta2=0.95,
    n_validation_windows=200,
    validate_every=50,
    sample_every=250,
    save_every=100,
)

TRAIN_PRESETS: dict[str, TrainConfig] = {
    # nanoGPT's recipe for a CPU, but for the learning rate: 0.8 million parameters
    "shakespeare-char": _CHAR,
    # the loss of shakespeare-char in seconds, by a smaller model; what each piece is worth is in benchmarks/LOG.md
    "shakespeare-fast": TrainConfig(
        name="shakespeare-fast",
        model=ModelConfig.preset("shakespeare-fast"),
        n_steps=300,
        batch_size=16,
        n_first_window=16,
        learning_rate=2e-2,
        min_learning_rate=0.0,
        schedule="linear",
        n_warmup_steps=0,
        optimizer="muon",
        compile=False,  # compiling takes longer than training
    ),
    # the same on the source of Python's standard library, which is on every machine
    "stdlib": _CHAR.replace(name="stdlib", data="stdlib"),
    # a language model that goes on to learn from other text; a small fraction of the rate that it was trained with
    "fine-tune": TrainConfig(
        name="fine-tune",
        model=ModelConfig.preset("smollm2-135m"),
        from_model="smollm2-135m",
        data="shakespeare",
        tokenizer="own",
        n_steps=200,
        batch_size=4,
        n_window=128,
        learning_rate=5e-5,
        min_learning_rate=5e-6,
        n_warmup_steps=10,
        weight_decay=0.01,
        beta2=0.999,
        n_validation_windows=32,
        validate_every=50,
        sample_every=100,
        save_every=200,
    ),
    # web pages, as many as a laptop, a night or a small GPU can read
    "fineweb-quick": _FINEWEB,
    "fineweb-medium": _FINEWEB.replace(
        name="fineweb-medium", cap_bytes=5 * 10**9, n_steps=5000, n_warmup_steps=250, save_every=500
    ),
    "fineweb-full": _FINEWEB.replace(name="fineweb-full", cap_bytes=10**10, n_steps=20_000, n_warmup_steps=1000, save_every=2000),
    # GPT-2's smallest for GPUs, half a million tokens a step: ten billion tokens once, but for the tenth that is for validation
    "gpt2-124m-fineweb": TrainConfig(
        name="gpt2-124m-fineweb",
        model=ModelConfig.preset("gpt2"),
        data="fineweb-edu",
        tokenizer="gpt2",
        n_steps=17_000,
        batch_size=32,
        n_accumulate=16,
        learning_rate=6e-4,  # Brown et al. 2020, table 2.1
        min_learning_rate=6e-5,
        n_warmup_steps=715,  # 375 million tokens, as there
        beta2=0.95,
        n_validation_windows=640,
        save_every=1000,
    ),
    # the smallest models that interpretability begins with
    "attn-only-1l": TrainConfig(name="attn-only-1l", model=ModelConfig.preset("attn-only-1l"), **_ATTENTION_ONLY),
    "attn-only-2l": TrainConfig(name="attn-only-2l", model=ModelConfig.preset("attn-only-2l"), **_ATTENTION_ONLY),
}

_EXPECTED: dict[tuple[str, str], float] = {
    ("shakespeare-char", "tinyshakespeare"): 1.82,
    ("shakespeare-char", "shakespeare"): 1.82,
    ("shakespeare-fast", "tinyshakespeare"): 1.83,
    ("stdlib", "stdlib"): 1.61,  # on the library of Python 3.11
    ("attn-only-1l", "tinyshakespeare"): 4.97,
    ("attn-only-1l", "shakespeare"): 4.71,
    ("attn-only-2l", "tinyshakespeare"): 4.82,
}
"""Validation loss in nats a token after a preset's steps, by preset and corpus: measured, see benchmarks/LOG.md."""


def expected_loss(config: TrainConfig, corpus: Corpus | DocumentShards) -> float | None:
    """Return the validation loss that a recipe is known to reach on a text, None for one that is no preset or was not measured.

    What a run is called, where it goes, and how often it looks do not count, nor does the precision.
    """
    if isinstance(corpus, DocumentShards):
        return None
    free = LOOKING | {"name", "data", "out", "device", "dtype", "compile", "parallel", "seed", "n_validation_windows"}
    for (name, corpus_name), loss in _EXPECTED.items():
        preset = TRAIN_PRESETS[name].replace(model=TRAIN_PRESETS[name].model.replace(d_vocab=config.model.d_vocab))
        same = all(getattr(config, field.name) == getattr(preset, field.name) for field in fields(config) if field.name not in free)
        if same and corpus.is_known_as(corpus_name):
            return loss
    return None


def _settings_of(data: object) -> dict[str, Any]:
    """Return what goes with documents: the tokenizer that they are encoded by, and no more of the web than fits a laptop."""
    if not isinstance(data, str) or not data:
        return {}
    if DocumentShards.are_in(data):
        return {"tokenizer": str(Path(data) / "tokenizer.json")}
    return {"tokenizer": "gpt2", "cap_bytes": 10**9} if data in HUB_DOCUMENTS else {}


def _corpus_name(data: str) -> str:
    return re.sub(r"[^\w.-]+", "-", Path(data).name.removesuffix(".txt")).strip("-.")

"""What every test may count on: shapes checked at every call, one thread a worker, and tiny models to take."""

import os
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any, Self

import jaxtyping
import pytest
from beartype import BeartypeConf, FrozenDict, beartype

# The shapes in the signatures are checked at every call, in tests only. beartype sees one method at a time, so it cannot know what
# `Self` is there: it lets that one hint pass. Configurations have no shapes, and check their values themselves with messages of
# their own. jaxtyping asks for the checker by name, hence the module made here.
_check = beartype(conf=BeartypeConf(hint_overrides=FrozenDict({Self: Any}), is_pep484_tower=True))
_checker: Any = types.ModuleType("shape_checker")
_checker.check = lambda function: function if function.__module__.endswith(".config") else _check(function)
sys.modules[_checker.__name__] = _checker
if loaded := sorted(name for name in sys.modules if name.split(".")[0] == "cutaway"):
    raise RuntimeError(f"imported before its shapes could be checked: {', '.join(loaded)}")
jaxtyping.config.update("jaxtyping_remove_typechecker_stack", True)
jaxtyping.install_import_hook("cutaway", "shape_checker.check")

import torch  # noqa: E402  (all that follows is imported with its shapes checked)
from torch import Tensor  # noqa: E402

from cutaway import assets  # noqa: E402
from cutaway.config import ModelConfig  # noqa: E402
from cutaway.model import Transformer  # noqa: E402

if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the workers share the machine


_SIZES: dict[str, Any] = {"d_vocab": 31, "n_ctx": 12, "n_layers": 2, "n_heads": 4, "d_model": 16}
_NO_BIAS: dict[str, Any] = {"norm_bias": False, "attn_bias": False, "mlp_bias": False}
_LLAMA: dict[str, Any] = {**_NO_BIAS, "norm": "rmsnorm", "position": "rotary", "act": "silu", "gated_mlp": True}

# Not every combination, but every value of every choice, and the pairs that meet in the code (block with d_mlp=0, cache with
# grouped heads, bidirectional with each kind of position).
VARIANTS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "gpt2-without-biases": {**_NO_BIAS, "act": "gelu", "n_layers": 3},
    "phi": {"position": "rotary", "rotary_dim": 2, "block": "parallel", "tie_embeddings": False, "unembed_bias": True},
    "llama": {**_LLAMA, "n_kv_heads": 2, "d_mlp": 24},
    "llama-multi-query-untied": {**_LLAMA, "n_kv_heads": 1, "tie_embeddings": False, "rotary_base": 100.0},
    "attention-only": {"d_mlp": 0, "position": "attention_only", "tie_embeddings": False},
    "attention-only-parallel": {"d_mlp": 0, "block": "parallel", "norm": "none", "position": "none"},
    "other-output-words": {
        "norm": "none",
        "act": "relu",
        "attn_bias": False,
        "d_vocab_out": 7,
        "tie_embeddings": False,
    },
    "wide-heads": {"d_head": 6, "position": "sinusoidal", "norm": "rmsnorm"},
    "parallel-gated": {**_LLAMA, "position": "attention_only", "block": "parallel", "act": "relu", "n_kv_heads": 2},
    "bidirectional": {"is_causal": False, "position": "sinusoidal"},
    "bidirectional-rotary": {"is_causal": False, "position": "rotary", "block": "parallel", "act": "gelu"},
    "bidirectional-gated": {**_LLAMA, "is_causal": False, "position": "learned", "n_kv_heads": 2, "norm_bias": True},
}


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> ModelConfig:
    """A tiny shape of every kind; the test runs once for each."""
    return ModelConfig(**{**_SIZES, **VARIANTS[request.param]})


@pytest.fixture(params=[name for name, choices in VARIANTS.items() if choices.get("is_causal", True)])
def causal_variant(request: pytest.FixtureRequest) -> ModelConfig:
    """A tiny shape of every kind that reads from left to right."""
    return ModelConfig(**{**_SIZES, **VARIANTS[request.param]})


@pytest.fixture(scope="session")
def smollm2_fetched() -> None:
    """Have SmolLM2 at hand, or skip the test and say why."""
    try:
        assets.fetch("smollm2-135m")
    except assets.AssetError as error:
        pytest.skip(f"needs the model smollm2-135m, 93 MB: {error}")


@pytest.fixture
def tiny_config() -> ModelConfig:
    """GPT-2's shape, tiny."""
    return ModelConfig(**_SIZES)


@pytest.fixture
def make_model() -> Callable[..., Transformer]:
    """Build a model in float64 whose every weight, norms and biases too, is far from where it starts: nothing cancels by chance."""

    def make(config: ModelConfig, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> Transformer:
        generator = torch.Generator().manual_seed(seed)
        model = Transformer(config, generator=generator).to(dtype)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                centre = 1.0 if ".ln" in name and name.endswith("weight") else 0.0
                weight.copy_(centre + 0.3 * torch.randn(weight.shape, generator=generator))
        return model.eval()

    return make


@pytest.fixture
def make_tokens() -> Callable[..., Tensor]:
    """Draw tokens of the tiny vocabulary."""

    def make(batch: int = 2, n_pos: int = 9, *, seed: int = 1) -> Tensor:
        return torch.randint(_SIZES["d_vocab"], (batch, n_pos), generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture
def tiny_model(tiny_config: ModelConfig, make_model: Callable[..., Transformer]) -> Transformer:
    """A tiny GPT-2 in float64."""
    return make_model(tiny_config)


@pytest.fixture
def tokens(make_tokens: Callable[..., Tensor]) -> Tensor:
    """Two rows of nine tokens."""
    return make_tokens()


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """As a user has it: a value of a wrong type comes as far as our own message for it."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)

"""Beam search against all continuations, against a slow search with full passes, and against the transformers library's."""

import math
from collections.abc import Callable, Collection
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.generation import Beam, Sampling, beam_search, decode
from cutaway.model import Transformer

MakeModel = Callable[..., Transformer]

D_VOCAB, LENGTH = 5, 3
TOLERANCE = 1e-11  # float64: sums of a few log-probabilities of size 10


@pytest.fixture
def model(make_model: MakeModel) -> Transformer:
    return make_model(ModelConfig(d_vocab=D_VOCAB, n_ctx=8, n_layers=2, n_heads=2, d_model=8))


class FullPasses:
    """What may follow a row and how likely, by a forward pass over its last `n_ctx` tokens."""

    def __init__(self, model: Transformer, *, n_ids: int | None = None) -> None:
        self.model, self.n_ids = model, n_ids
        self.known: dict[tuple[int, ...], list[float]] = {}

    def log_probs(self, row: tuple[int, ...]) -> list[float]:
        if row not in self.known:
            with torch.inference_mode():
                logits = self.model(torch.tensor([row[-self.model.config.n_ctx :]]))[0, -1, : self.n_ids]
            self.known[row] = logits.log_softmax(dim=-1).tolist()
        return self.known[row]

    def extensions(self, prompt: list[int], beams: list[Beam]) -> list[Beam]:
        return [
            Beam((*beam.tokens, token), beam.log_prob + log_prob)
            for beam in beams
            for token, log_prob in enumerate(self.log_probs((*prompt, *beam.tokens)))
        ]


def all_continuations(passes: FullPasses, prompt: list[int], stop_ids: Collection[int | None]) -> list[Beam]:
    complete, going = list[Beam](), [Beam((), 0.0)]
    for _ in range(LENGTH):
        longer = passes.extensions(prompt, going)
        complete += [beam for beam in longer if beam.tokens[-1] in stop_ids]
        going = [beam for beam in longer if beam.tokens[-1] not in stop_ids]
    return complete + going


def slow_search(
    passes: FullPasses, prompt: list[int], *, num_beams: int, max_new_tokens: int, stop_ids: Collection[int | None]
) -> list[Beam]:
    """The same rule with every extension sorted and no end before the last step; all beams found, in no order."""
    going, ended = [Beam((), 0.0)], list[Beam]()
    for _ in range(max_new_tokens):
        longer = sorted(passes.extensions(prompt, going), key=lambda beam: -beam.log_prob)
        ended += [beam for beam in longer[:num_beams] if beam.tokens[-1] in stop_ids]
        going = [beam for beam in longer if beam.tokens[-1] not in stop_ids][:num_beams]
    return ended + going


def ends_with(stop_ids: Collection[int | None]) -> Callable[[tuple[int, ...]], bool]:
    return lambda tokens: tokens[-1] in stop_ids


def by_score(beams: list[Beam], penalty: float) -> list[Beam]:
    return sorted(beams, key=lambda beam: -beam.log_prob / len(beam.tokens) ** penalty)


def assert_same(got: list[Beam], expected: list[Beam]) -> None:
    assert [beam.tokens for beam in got] == [beam.tokens for beam in expected]
    for beam, other in zip(got, expected, strict=True):
        assert abs(beam.log_prob - other.log_prob) < TOLERANCE


@pytest.mark.parametrize("stop_ids", [(), (3,), (0, 2)])
def test_with_beams_for_all_it_is_exhaustive(model: Transformer, stop_ids: tuple[int, ...]) -> None:
    prompt = [1, 4]
    every = all_continuations(FullPasses(model), prompt, stop_ids)
    assert sum(math.exp(beam.log_prob) for beam in every) == pytest.approx(1, abs=1e-12)  # up to 125 float64 numbers
    for penalty in (0.0, 1.0, 2.5, -1.0):
        choices: dict[str, Any] = {"is_done": ends_with(stop_ids), "length_penalty": penalty}
        got = beam_search(model, prompt, num_beams=D_VOCAB**LENGTH, max_new_tokens=LENGTH, **choices)
        assert_same(got, by_score(every, penalty))


@pytest.mark.parametrize("prompt", [[1], [2, 0, 3, 4, 4]], ids=["within the context", "past the context of eight"])
def test_stopping_early_and_the_cache_change_nothing(model: Transformer, prompt: list[int]) -> None:
    passes = FullPasses(model)
    for num_beams, stop_ids in product((1, 3), ((3,), (0, 2))):
        choices: dict[str, Any] = {"num_beams": num_beams, "max_new_tokens": 6}
        expected = slow_search(passes, prompt, stop_ids=stop_ids, **choices)
        for penalty in (0.0, 1.0, 3.0, -1.0):
            got = beam_search(
                model, prompt, length_penalty=penalty, is_done=ends_with(stop_ids), tell=lambda sentence: None, **choices
            )
            assert_same(got, by_score(expected, penalty)[:num_beams])


def test_one_beam_is_greedy(model: Transformer) -> None:
    (beam,) = beam_search(model, [1, 2], num_beams=1, max_new_tokens=10, tell=lambda sentence: None)
    steps = decode(model, [[1, 2]], max_new_tokens=10, sampling=Sampling(temperature=0.0), tell=lambda sentence: None)
    assert list(beam.tokens) == [token for step in steps for _, token in step]


def test_ids_that_are_never_chosen(model: Transformer) -> None:
    got = beam_search(model, [1, 4], num_beams=3**LENGTH, max_new_tokens=LENGTH, never=range(3, 5))
    assert_same(got, by_score(all_continuations(FullPasses(model, n_ids=3), [1, 4], ()), 1.0))


def by_table(*rows: tuple[float, ...]) -> Transformer:
    """A model whose next token depends on the last alone, with the probabilities in its row."""
    n = len(rows)
    config = ModelConfig(d_vocab=n, n_ctx=8, n_layers=0, n_heads=1, d_model=n, norm="none", position="none", tie_embeddings=False)
    model = Transformer(config).double()
    with torch.no_grad():
        model.embed.W_E.copy_(torch.eye(n))
        model.unembed.W_U.weight.copy_(torch.tensor(rows, dtype=torch.float64).log().T)
    return model


@pytest.mark.parametrize("num_beams", [1, 2])
def test_what_the_length_penalty_does(num_beams: int) -> None:
    # after 0: stop (2) at once with 0.5, or go on with 1, which stays at 1
    model = by_table((0.1, 0.4, 0.5), (0.1, 0.8, 0.1), (0.3, 0.3, 0.4))
    stopped, longer = (2,), (1, 1, 1)

    def best(length_penalty: float) -> Beam:
        return beam_search(
            model, [0], num_beams=num_beams, max_new_tokens=3, is_done=ends_with([2]), length_penalty=length_penalty
        )[0]

    assert best(0.0).tokens == best(-1.0).tokens == stopped
    assert best(0.0).log_prob == pytest.approx(math.log(0.5), abs=1e-15)
    assert best(1.0).tokens == longer  # log 0.256 / 3 = -0.45 and log 0.5 = -0.69
    assert best(1.0).log_prob == pytest.approx(math.log(0.4 * 0.8 * 0.8), abs=1e-14)
    # they are even where log 0.256 / 3^p = log 0.5
    even = math.log(math.log(0.256) / math.log(0.5), 3)
    assert best(even - 1e-6).tokens == stopped
    assert best(even + 1e-6).tokens == longer


def test_where_greedy_is_led_astray() -> None:
    # 1 is likelier at first, but nothing after it is likely; 2 leads to 2 again
    model = by_table((0.0001, 0.5, 0.4999), (0.4, 0.3, 0.3), (0.01, 0.01, 0.98))
    assert beam_search(model, [0], num_beams=1, max_new_tokens=2)[0].tokens == (1, 0)
    best = beam_search(model, [0], num_beams=2, max_new_tokens=2)[0]
    assert best.tokens == (2, 2)
    assert best.log_prob == pytest.approx(math.log(0.4999 * 0.98), abs=1e-14)


def test_a_stop_id_ends_a_beam_and_is_kept(model: Transformer) -> None:
    beams = beam_search(model, [1], num_beams=40, max_new_tokens=4, is_done=ends_with([3]))
    assert any(beam.tokens[-1] == 3 for beam in beams)
    assert any(3 not in beam.tokens for beam in beams)
    assert all(3 not in beam.tokens[:-1] for beam in beams)
    assert all(len(beam.tokens) == 4 or beam.tokens[-1] == 3 for beam in beams)


def as_theirs(model: Transformer) -> Any:
    """Our model inside the transformers library, which then searches by itself."""
    transformers = pytest.importorskip("transformers", reason="transformers, the oracle here, is not installed")
    from transformers.generation import GenerationMixin
    from transformers.modeling_outputs import CausalLMOutput

    class Theirs(transformers.PreTrainedModel, GenerationMixin):
        config_class = transformers.PretrainedConfig

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.ours = model

        def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
            return CausalLMOutput(logits=self.ours(input_ids))

        def prepare_inputs_for_generation(
            self, input_ids: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
        ) -> dict[str, Tensor]:
            return {"input_ids": input_ids}

    config = transformers.PretrainedConfig(vocab_size=model.config.d_vocab, is_encoder_decoder=False, num_hidden_layers=2)
    return Theirs(config).eval()


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("stop_id", [None, 3])
def test_the_librarys_search(tiny_model: Transformer, stop_id: int | None, penalty: float) -> None:
    theirs = as_theirs(tiny_model)
    for first in range(5):
        prompt = [first, 7, 2]
        sequences = theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, 3, dtype=torch.long),
            max_new_tokens=7,
            num_beams=4,
            num_return_sequences=4,
            do_sample=False,
            length_penalty=penalty,
            early_stopping="never",  # ends only where no beam can become the best, as ours does
            eos_token_id=stop_id,
            pad_token_id=30,
            use_cache=False,
            return_dict_in_generate=True,
            output_scores=True,
        )
        beams = beam_search(tiny_model, prompt, num_beams=4, max_new_tokens=7, length_penalty=penalty, is_done=ends_with([stop_id]))
        expected = [tuple(row[3:]) for row in sequences.sequences.tolist()]
        assert [(*beam.tokens, *[30] * (len(expected[0]) - len(beam.tokens))) for beam in beams] == expected
        # their sums are in float32
        torch.testing.assert_close(
            torch.tensor([beam.score(penalty) for beam in beams]), sequences.sequences_scores.float(), rtol=1e-5, atol=1e-5
        )


def test_nothing_to_search(model: Transformer) -> None:
    assert beam_search(model, [1], num_beams=3, max_new_tokens=0) == [Beam((), 0.0)]


@pytest.mark.parametrize(
    ("prompt", "choices", "sentence"),
    [
        ([1], {"length_penalty": float("nan")}, "length_penalty is nan; expected a number, 0 to compare sums alone"),
        ([1], {"length_penalty": float("inf")}, "length_penalty is inf"),
        ([1], {"num_beams": 0}, "num_beams is 0; expected a whole number of at least 1"),
        ([1], {"num_beams": -2}, "num_beams is -2; expected a whole number of at least 1"),
        ([1], {"max_new_tokens": -10}, "max_new_tokens is -10; expected a whole number of at least 0"),
        ([], {}, "a prompt has no tokens; give at least one token to go on from"),
    ],
)
def test_refusals(model: Transformer, prompt: list[int], choices: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        beam_search(model, prompt, **{"num_beams": 2, "max_new_tokens": 3} | choices)


def test_the_model_keeps_its_mode_and_its_gradients(tiny_config: ModelConfig, make_model: MakeModel, tokens: Tensor) -> None:
    model = make_model(tiny_config.replace(dropout=0.5))
    expected = beam_search(model, [1, 2], num_beams=3, max_new_tokens=4)
    assert beam_search(model.train(), [1, 2], num_beams=3, max_new_tokens=4) == expected
    assert model.training
    model(tokens).sum().backward()

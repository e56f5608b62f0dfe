"""The scorer against full forward passes, a continuation at a time: shared contexts, batches and cuts change nothing."""

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from cutaway.config import ModelConfig
from cutaway.evaluation import Request, Score, Scores, score_batches, score_continuations, scoring
from cutaway.model import Transformer

MakeModel = Callable[..., Transformer]

# float64: the same sums over up to 24 numbers of size 10 in another order, then a softmax over 31
TOLERANCE = 1e-12


def draw_requests(n_requests: int = 20, *, n_ctx: int = 12, seed: int = 0) -> list[Request]:
    """Contexts and continuations of all lengths, many too long to fit together, some equal."""
    draw = random.Random(seed)

    def ids(least: int, most: int) -> tuple[int, ...]:
        return tuple(draw.randrange(31) for _ in range(draw.randint(least, most)))

    requests = []
    for _ in range(n_requests):
        continuations = [ids(1, n_ctx // 2) for _ in range(draw.randint(1, 4))]
        requests.append(Request(ids(1, 2 * n_ctx), (*continuations, continuations[0])))
    return [*requests, Request((3,), (ids(n_ctx, n_ctx), (5,))), Request(ids(4, 4), ((7,), (8,)))]


def naive(model: Transformer, context: tuple[int, ...], continuation: tuple[int, ...]) -> Score:
    """The oracle: lm-evaluation-harness's own cut, one forward pass for one continuation, every logit."""
    read = torch.tensor((context + continuation)[-(model.config.n_ctx + 1) :][:-1])
    with torch.inference_mode():
        logits = model(read[None])[0, -len(continuation) :]
    log_probs = logits.log_softmax(dim=-1)
    return Score(
        tuple(log_probs[torch.arange(len(continuation)), torch.tensor(continuation)].tolist()),
        logits.argmax(dim=-1).tolist() == list(continuation),
    )


def assert_same(found: list[Scores], expected: list[list[Score]], tolerance: float = TOLERANCE) -> None:
    assert [len(scores.continuations) for scores in found] == [len(scores) for scores in expected]
    for scores, others in zip(found, expected, strict=True):
        for score, other in zip(scores.continuations, others, strict=True):
            assert score.log_probs == pytest.approx(other.log_probs, rel=0, abs=tolerance)
            assert score.log_prob == pytest.approx(sum(other.log_probs), rel=0, abs=10 * tolerance)
            assert score.is_greedy == other.is_greedy
            assert score.n_tokens == len(other.log_probs)


@pytest.mark.parametrize("n_batch_tokens", [1, 40, 10_000])
def test_contexts_read_once_in_batches_give_what_full_passes_give(
    causal_variant: ModelConfig, make_model: MakeModel, n_batch_tokens: int
) -> None:
    model = make_model(causal_variant.replace(d_vocab_out=31))
    requests = draw_requests()
    expected = [[naive(model, request.context, continuation) for continuation in request.continuations] for request in requests]
    found = score_continuations(model, requests, n_batch_tokens=n_batch_tokens)
    assert_same(found, expected)
    is_too_long = [len(request.context) + max(map(len, request.continuations)) > 13 for request in requests]
    assert [scores.is_truncated for scores in found] == is_too_long
    assert 3 < sum(is_too_long) < len(requests) - 3  # both kinds are there


def test_a_single_continuation_is_a_plain_forward_pass(tiny_model: Transformer) -> None:
    requests = [Request(request.context, request.continuations[:1]) for request in draw_requests(seed=1)]
    expected = [[naive(tiny_model, request.context, request.continuations[0])] for request in requests]
    assert_same(score_continuations(tiny_model, requests), expected)


def test_one_score_does_not_depend_on_the_others(tiny_model: Transformer) -> None:
    requests = draw_requests()
    together = score_continuations(tiny_model, requests)
    alone = [score_continuations(tiny_model, [request])[0] for request in requests]
    assert_same(together, [list(scores.continuations) for scores in alone])


def test_the_greedy_continuation_is_called_greedy(tiny_model: Transformer) -> None:
    row = [4, 9]
    with torch.inference_mode():
        for _ in range(5):
            row.append(int(tiny_model(torch.tensor([row]))[0, -1].argmax()))
    other = (*row[2:6], (row[6] + 1) % 31)
    scores = score_continuations(tiny_model, [Request((4, 9), (tuple(row[2:]), other))])[0]
    assert [score.is_greedy for score in scores.continuations] == [True, False]


def test_of_equal_logits_the_first_token_is_the_likeliest(tiny_model: Transformer) -> None:
    with torch.no_grad():
        tiny_model.embed.W_E.zero_()  # tied: every logit is 0
    scores = score_continuations(tiny_model, [Request((1,), ((0, 0), (1,), (0, 1)))])[0]
    assert [score.is_greedy for score in scores.continuations] == [True, False, False]
    assert scores.continuations[1].log_prob == pytest.approx(-torch.tensor(31.0).double().log().item(), abs=1e-15)


def test_equal_continuations_have_equal_scores_to_the_last_bit(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config, dtype=torch.float32)
    for scores, request in zip(score_continuations(model, draw_requests()), draw_requests(), strict=True):
        assert request.continuations.count(request.continuations[0]) == 1 or scores.continuations[-1] == scores.continuations[0]


def test_every_context_token_is_read_once(tiny_model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    n_read, run_blocks = [], Transformer.run_blocks

    def counting(self: Transformer, resid: Tensor, *args: object, **kwargs: object) -> Tensor:
        n_read.append(resid.shape[:2].numel())
        return run_blocks(self, resid, *args, **kwargs)

    monkeypatch.setattr(Transformer, "run_blocks", counting)
    score_continuations(tiny_model, [Request((1, 2, 3, 4, 5), ((1, 2, 3), (4, 5), (6,), (4, 5)))])
    assert n_read == [5 + 2 + 1 + 0]  # a continuation's last token is not read, and an equal one not again


def test_logits_are_computed_where_they_are_needed_and_in_parts(tiny_model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = draw_requests()
    expected = score_continuations(tiny_model, requests)
    monkeypatch.setattr(scoring, "_LOGITS_AT_ONCE", 3 * 31)
    shapes: list[int] = []
    tiny_model.unembed.register_forward_hook(lambda module, args, logits: shapes.append(len(logits)))
    found = score_continuations(tiny_model, requests)
    assert_same(found, [list(scores.continuations) for scores in expected])
    assert max(shapes) == 3
    # a context's last position serves all its continuations: never more positions than tokens scored
    assert sum(shapes) < sum(len(continuation) for request in requests for continuation in request.continuations)


def test_the_longest_come_first_and_what_is_done_is_passed_over(tiny_model: Transformer) -> None:
    requests = [Request(tuple(range(n)), ((1,),)) for n in (3, 9, 5, 7, 4)]
    batches = [sorted(batch) for batch in score_batches(tiny_model, requests, n_batch_tokens=18)]
    assert batches == [[1, 3], [0, 2, 4]]
    assert [sorted(batch) for batch in score_batches(tiny_model, requests, n_batch_tokens=18, done=frozenset({1, 3, 0}))] == [
        [0, 2, 4]
    ]
    assert list(score_batches(tiny_model, requests, done=frozenset(range(5)))) == []
    assert list(score_batches(tiny_model, [])) == []


def test_the_model_keeps_its_mode_and_the_caller_theirs(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config.replace(dropout=0.5))
    requests = draw_requests(3)
    expected = score_continuations(model, requests)
    model.train()
    for _ in score_batches(model, requests, n_batch_tokens=1):
        assert model.training
        assert not torch.is_inference_mode_enabled()
    assert score_continuations(model, requests) == expected


def test_half_precision_has_its_softmax_in_float32(tiny_config: ModelConfig, make_model: MakeModel) -> None:
    model = make_model(tiny_config, dtype=torch.bfloat16)
    scores = score_continuations(model, [Request((1, 2), ((3,),))])[0]
    with torch.inference_mode():
        expected = model(torch.tensor([[1, 2]]))[0, -1].float().log_softmax(dim=-1)[3].item()
    assert scores.continuations[0].log_prob == pytest.approx(expected, abs=1e-6)  # float32: log-probs of size 10
    assert scores.continuations[0].log_prob != torch.tensor(expected).bfloat16().item()


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (Request((), ((1,),)), "request 1: there is no context"),
        (Request((1,), ()), "request 1: a continuation is empty"),
        (Request((1,), ((1,), ())), "request 1: a continuation is empty"),
        (Request((1,), ((1,) * 13,)), "request 1: a continuation has 13 tokens; the model reads n_ctx 12 at once"),
    ],
)
def test_refusals(tiny_model: Transformer, request_: Request, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        score_continuations(tiny_model, [Request((1,), ((1,),)), request_])


@pytest.mark.parametrize("changes", [{"is_causal": False}, {"d_vocab_out": 7, "tie_embeddings": False}])
def test_a_model_that_predicts_something_else_is_refused(tiny_config: ModelConfig, changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="does not predict the next token"):
        score_continuations(Transformer(tiny_config.replace(**changes)), [Request((1,), ((1,),))])

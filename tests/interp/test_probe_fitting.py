"""Probes are the closed forms and optima they say, read where the labels are, and score against nulls and controls."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import cutaway
from cutaway import probing
from cutaway.hooks import recording
from cutaway.interp.probing import MLP, LinearProbe, Logistic, MeanDifference, Ridge, Task, text_folds
from cutaway.interp.probing.causing import _Moves
from cutaway.interp.probing.logistic import fit_logistic
from interp.models import small_model
from interp.planted import planted_model
from interp.probed_rows import EXACT, TEXTS, X, normal


def loss_of(x: Tensor, targets: Tensor, W: Tensor, b: Tensor, l2: float) -> Tensor:
    return torch.nn.functional.cross_entropy(x @ W.T + b, targets) + l2 / 2 * (W**2).sum()


@pytest.mark.parametrize(
    ("n_rows", "d", "n_classes", "l2"),
    [(40, 5, 2, 1e-2), (40, 5, 4, 1e-3), (12, 60, 2, 1e-2), (12, 60, 3, 1.0), (90, 80, 5, 1e-2), (320, 310, 5, 1e-3)],
)
def test_logistic_regression_is_at_the_optimum(n_rows: int, d: int, n_classes: int, l2: float) -> None:
    """The gradient by autograd is zero: with the penalty the loss is strictly convex, so that there is one such point."""
    x, targets = normal(n_rows, d), torch.arange(n_rows) % n_classes
    W, b = (each.requires_grad_() for each in fit_logistic(x, targets, n_classes, l2=l2))
    gradients = torch.autograd.grad(loss_of(x, targets, W, b, l2), (W, b))
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-8  # the solver stops at 1e-9 of its own coordinates
    assert float(W.detach().sum(0).abs().max()) < EXACT  # nothing common to all classes
    for seed in range(3):
        moved = loss_of(x, targets, W + 1e-3 * normal(n_classes, d, seed=seed), b, l2)
        assert moved.item() > loss_of(x, targets, W, b, l2).item()


@pytest.mark.parametrize(("n_rows", "d"), [(60, 5), (12, 60), (320, 310)])
def test_classes_that_count_alike_are_at_that_optimum(n_rows: int, d: int) -> None:
    """One class has two thirds of the rows; the gradient by autograd of torch's own weighted loss is zero."""
    x, targets = normal(n_rows, d), torch.tensor([0, 0, 0, 0, 1, 2]).repeat(n_rows // 6 + 1)[:n_rows]
    W, b = (each.requires_grad_() for each in fit_logistic(x, targets, 3, l2=1e-2, are_classes_alike=True))
    weight = 1 / targets.bincount().double()
    loss = torch.nn.functional.cross_entropy(x @ W.T + b, targets, weight=weight) + 1e-2 / 2 * (W**2).sum()
    assert max(float(each.abs().max()) for each in torch.autograd.grad(loss, (W, b))) < 1e-8  # the solver's own 1e-9


def test_both_solvers_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x, targets = normal(60, 20), torch.arange(60) % 3
    direct = fit_logistic(x, targets, 3, l2=1e-3)
    monkeypatch.setattr("cutaway.interp.probing.logistic._MOST_FOR_HESSIAN", 0)
    by_products = fit_logistic(x, targets, 3, l2=1e-3)
    for one, other in zip(direct, by_products, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)  # both gradients are below 1e-9, the curvature above 1e-3


def test_one_coordinate_by_brute_force() -> None:
    x = torch.tensor([[-2.0], [-1.0], [0.5], [1.0], [3.0]], dtype=torch.float64)
    targets = torch.tensor([0, 1, 0, 1, 1])
    W, b = fit_logistic(x, targets, 2, l2=0.1)
    found = float(loss_of(x, targets, W, b, 0.1))
    grid = torch.linspace(-3, 3, 121, dtype=torch.float64).tolist()
    for w, bias in itertools.product(grid, grid):
        signs = torch.tensor([-0.5, 0.5], dtype=torch.float64)
        assert found <= float(loss_of(x, targets, w * signs[:, None], bias * signs, 0.1)) + EXACT


@pytest.mark.parametrize(("n_rows", "d"), [(30, 6), (10, 40)])
@pytest.mark.parametrize("standardize", [True, False])
def test_ridge_is_the_normal_equations(n_rows: int, d: int, standardize: bool) -> None:
    x, y = normal(n_rows, d) * torch.arange(1, d + 1) + 3, normal(n_rows, seed=1) + 5
    probe = probing.fit(x, Task.of(y, is_number=True), kind=Ridge(l2=0.3, standardize=standardize))
    z = (x - x.mean(0)) / x.std(0, correction=0) if standardize else x - x.mean(0)
    w = torch.linalg.inv(z.T @ z / n_rows + 0.3 * torch.eye(d, dtype=torch.float64)) @ z.T @ (y - y.mean()) / n_rows
    torch.testing.assert_close(probe.predict(x), z @ w + y.mean(), rtol=0, atol=1e-9)  # an inverse of condition 1e4


def test_the_mean_difference_is_that() -> None:
    x, labels = normal(20, 4), ["b", "a"] * 10
    probe = probing.fit(x, Task.of(labels), kind="mean-difference")
    assert isinstance(probe, LinearProbe)
    assert probe.classes == ("a", "b")
    mean_a, mean_b = x[1::2].mean(0), x[::2].mean(0)
    difference = mean_b - mean_a
    torch.testing.assert_close(probe.direction, difference / difference.norm())
    nearer = ((x - mean_b).norm(dim=1) < (x - mean_a).norm(dim=1)).long()
    assert torch.equal(probe.predict(x), nearer)


def test_standardised_weights_read_activations_as_they_are() -> None:
    x, labels = normal(50, 6) * torch.tensor([1e3, 1, 1e-3, 1, 1, 1]) + 7, list(range(2)) * 25
    x[:, 5] = 4.0  # a constant
    probe = probing.fit(x, Task.of(labels), kind=Logistic(l2=0.1))
    assert isinstance(probe, LinearProbe)
    scale = x.std(0, correction=0)
    scale[5] = 1
    W, b = fit_logistic((x - x.mean(0)) / scale, torch.tensor(labels), 2, l2=0.1)
    torch.testing.assert_close(probe.scores(x), (x - x.mean(0)) / scale @ W.T + b, rtol=0, atol=1e-8)


def test_an_mlp_reads_what_no_direction_holds() -> None:
    x = normal(200, 2)
    labels = ((x[:, 0] > 0) ^ (x[:, 1] > 0)).tolist()
    assert probing.probe_rows(x, labels, n_nulls=1).best.validation.held_out.value < 0.65
    found = probing.probe_rows(x, labels, n_nulls=1, n_folds=3, kind=MLP(d_hidden=32))
    assert found.best.validation.held_out.value > 0.9
    again = probing.fit(x, Task.of(labels), kind=MLP(d_hidden=32))
    assert torch.equal(found.best.probe.scores(x), again.scores(x))
    numbers = probing.probe_rows(x, (x[:, 0] * x[:, 1]).tolist(), n_nulls=1, n_folds=3, kind=MLP(d_hidden=32))
    assert numbers.measure == "R²"
    assert numbers.best.validation.held_out.value > 0.8


def test_no_text_is_both_learned_and_tested() -> None:
    labels, texts = ["a", "b"] * 30, [i // 3 for i in range(60)]
    folds = text_folds(Task.of(labels, groups=texts), 4, seed=3)
    for text in range(20):
        assert len(folds[torch.tensor(texts) == text].unique()) == 1
    assert folds.bincount().tolist() == [15] * 4
    assert torch.equal(folds, text_folds(Task.of(labels, groups=texts), 4, seed=3))
    assert not torch.equal(folds, text_folds(Task.of(labels, groups=texts), 4, seed=4))


def test_what_a_text_gives_away_is_not_counted() -> None:
    """Rows of one text are the same; labels are random by text: nothing can be learned, though every row comes eight times."""
    x = normal(40, 30).repeat_interleave(8, dim=0)
    labels = torch.randint(2, (40,), generator=torch.Generator().manual_seed(5)).repeat_interleave(8)
    texts = torch.arange(40).repeat_interleave(8)
    assert probing.probe_rows(x, labels, groups=texts, n_nulls=1).best.validation.held_out.value < 0.7
    assert probing.probe_rows(x, labels, n_nulls=1).best.validation.held_out.value > 0.95


def test_shuffled_labels_stay_whole_where_a_text_has_one() -> None:
    """What is left to chance is which text has which label: with rows dealt singly the null would be far too narrow."""
    texts = torch.arange(30).repeat_interleave(4)
    labels = (torch.arange(30) % 3 == 0).repeat_interleave(4)
    task = Task.of(labels, groups=texts)
    for seed in range(5):
        dealt = task.shuffled(torch.Generator().manual_seed(seed)).targets.reshape(30, 4)
        assert torch.equal(dealt, dealt[:, :1].expand(30, 4))
        assert int(dealt[:, 0].sum()) == 10
        assert not torch.equal(dealt.flatten(), task.targets)
    mixed = labels.clone()
    mixed[80:] = torch.arange(40) % 4 == 0  # the last ten texts have both labels
    dealt = Task.of(mixed, groups=texts).shuffled(torch.Generator().manual_seed(0)).targets
    assert all(len(each.unique()) == 1 for each in dealt[:80].reshape(20, 4))
    assert int(dealt[:80].sum()) == int(mixed[:80].sum())
    assert int(dealt[80:].sum()) == 10
    assert not torch.equal(dealt[80:], mixed[80:].long())
    found = probing.probe_rows(normal(120, 3), labels, groups=texts, n_nulls=2)
    assert "on labels shuffled over whole groups" in found.summary()


def test_the_score_and_its_standard_error() -> None:
    task = Task.of(["a", "b", "a", "b", "a", "b"], groups=[0, 0, 1, 1, 2, 2])
    found = probing.validation.score(task, torch.tensor([0, 1, 0, 0, 1, 0]))  # 2, 1 and 0 of 2 right
    assert found.value == pytest.approx(0.5)
    assert found.standard_error == pytest.approx(math.sqrt(3 / 2 * (1 + 0 + 1)) / 6)
    single = Task.of(["a", "b"] * 10)
    hits = torch.tensor([0, 1] * 8 + [1, 0] * 2)  # 16 of 20 right
    assert probing.validation.score(single, hits).standard_error == pytest.approx(math.sqrt(0.8 * 0.2 / 19))
    numbers = Task.of([1.0, 2.0, 3.0, 4.0], is_number=True)
    assert probing.validation.score(numbers, torch.tensor([1.0, 2.0, 3.0, 3.0])).value == pytest.approx(1 - 1 / 5)


def test_the_best_of_many_places_is_held_against_the_best_of_as_many_nulls() -> None:
    """Where nothing can be read the best place looks good, and so does the best place of each draw of shuffled labels."""
    xs = {f"rows {place}": normal(60, 2, seed=place) for place in range(20)}
    found = probing.probe_rows(xs, ["a", "b"] * 30, n_nulls=4, kind="mean-difference")
    null = found.best_shuffled
    assert null.draws == tuple(max(each.validation.shuffled.draws[draw] for each in found.scores) for draw in range(4))
    assert found.best.validation.held_out.value > found.best.validation.shuffled.value + 0.1  # what it was held against
    assert abs(found.best.validation.held_out.value - null.value) < 0.1
    assert f"the best of them has {null.value:.2f} (mean of 4 draws, at most {max(null.draws):.2f})" in found.summary()
    assert found.to_dict()["best_shuffled"]["draws"] == list(null.draws)
    task = Task.of(["a", "b"] * 30)
    folds = text_folds(task, 5, seed=0)
    dealt = task.shuffled(torch.Generator().manual_seed(0))  # the first draw, the same at every place
    first = [probing.validation.held_out(x, dealt, MeanDifference(), folds=folds).value for x in xs.values()]
    assert null.draws[0] == max(first)


def test_a_control_task_gives_each_word_type_one_label() -> None:
    task = Task.of(["a", "b", "b", "b"] * 50, words=[i % 20 for i in range(200)])
    control = task.control(torch.Generator().manual_seed(0))
    words, targets = task.words, control.targets
    assert words is not None
    assert all(len(targets[words == word].unique()) == 1 for word in range(20))
    many = Task.of(["a", "b", "b", "b"] * 500, words=range(2000)).control(torch.Generator().manual_seed(0))
    assert float(many.targets.double().mean()) == 0.75  # as often as in the task


@pytest.mark.parametrize("n_types", [2, 3, 5, 8])
@pytest.mark.parametrize("n_positive", [24, 120])
def test_control_tasks_never_give_all_types_one_label(n_types: int, n_positive: int) -> None:
    words = torch.arange(240) % n_types
    task = Task.of([i < n_positive for i in range(240)], words=words)
    numbers = Task.of(normal(240).tolist(), words=words, is_number=True)
    drawn = []
    for seed in range(40):
        generator = torch.Generator().manual_seed(seed)
        drawn.append(task.control(generator).targets)
        assert len(numbers.control(generator).targets.unique()) > 1
    assert all(len(each.unique()) == 2 for each in drawn)
    shares = torch.stack(drawn).double().mean(0)
    assert bool(((shares > 0) & (shares < 1)).all())  # no type has the same label in all draws


def test_control_tasks_have_the_labels_as_often_as_the_task() -> None:
    words = (
        torch.rand(1000, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 2 * 40
    ).long()  # some types common
    labels = ["a"] * 100 + ["b"] * 300 + ["c"] * 600
    for seed in range(10):
        dealt = Task.of(labels, words=words).control(torch.Generator().manual_seed(seed)).targets.bincount(minlength=3)
        smallest = int(words.bincount()[words.unique()].min())
        assert (dealt - torch.tensor([100, 300, 600])).abs().max() <= smallest  # what the last type, of fewest rows, can leave
    numbers = normal(1000)
    drawn = [
        Task.of(numbers, words=words, is_number=True).control(torch.Generator().manual_seed(seed)).targets for seed in range(10)
    ]
    assert max((each.mean() - numbers.mean()).abs().item() for each in drawn) < 0.1  # drawn one by one: 0.2 and more


@pytest.mark.parametrize(("n_types", "share"), [(2, 0.5), (3, 0.5), (40, 0.1), (40, 0.5)])
def test_selectivity_is_zero_where_there_is_nothing_to_read(n_types: int, share: float) -> None:
    """Rows of noise: probe and control task alike are right as often as chance has it, over many drawn tasks."""
    found = []
    for seed in range(12):
        words = torch.randint(n_types, (300,), generator=torch.Generator().manual_seed(seed))
        labels = torch.randperm(300, generator=torch.Generator().manual_seed(seed)) < share * 300
        groups = torch.arange(60).repeat_interleave(5)
        task = Task.of(labels, words=words, groups=groups)
        x = normal(300, 3, seed=seed)
        folds = text_folds(task, 3, seed=seed)
        each = probing.validation.validate(x, task, MeanDifference(), folds=folds, n_nulls=3, with_control=True, seed=seed)
        assert each.selectivity is not None
        assert each.control_majority is not None
        found.append(each.selectivity)
        if n_types == 40:
            assert each.control_majority == pytest.approx(each.majority, abs=0.01)
    mean, error = torch.tensor(found).mean().item(), torch.tensor(found).std().item() / math.sqrt(len(found))
    assert abs(mean) < max(3 * error, 0.02)


def test_a_random_direction_moves_activations_as_far_as_the_probes() -> None:
    """Removal too: taking a random direction away would take far less away."""
    x, is_second = normal(12, 40), torch.arange(12) % 2 == 1
    probe = replace(probing.fit(x, Task.of(is_second)), name="blocks.0.resid_post", pos=-1)
    assert isinstance(probe, LinearProbe)
    moves = _Moves.of(probe, (False, True), x, is_second, at=-1, dtype=torch.float64)
    other = normal(40, seed=9)
    along = moves.along_own([0.5]), moves.along_random(other / other.norm(), [0.5])
    own, random = ([each.new_value(x, each.value) - x for [each] in edits] for edits in along)
    for one, two in zip(own, random, strict=True):
        torch.testing.assert_close(one.norm(dim=1), two.norm(dim=1), rtol=0, atol=EXACT)
    signs = random[0] @ other > 0
    assert bool(signs[is_second].all()) != bool(signs[~is_second].all())  # the two classes go opposite ways


def test_rows_come_from_where_they_are_labelled() -> None:
    """Rows of different lengths, several positions, and a cache hand over the same activations as a plain recording."""
    model = small_model()
    tokens = torch.randint(0, 50, (6, 9), generator=torch.Generator().manual_seed(0))
    hooks, plain = recording("blocks.1.attn.z", "blocks.2.resid_post")
    model(tokens, hooks=hooks)
    labels = ["a", "b"] * 3
    found = probing.probe(model, tokens, labels, names=list(plain), pos=[2, -1], n_folds=3, n_nulls=1)
    assert [(each.place.name, each.place.pos) for each in found.scores] == [(name, pos) for name in plain for pos in (2, -1)]
    for name, x in plain.items():
        direct = probing.probe_rows(x[:, 2].flatten(1), labels, n_folds=3, n_nulls=1).best
        one = found.at(name, 2)
        assert one.validation == direct.validation
        torch.testing.assert_close(
            one.probe.scores(x[:, 2].flatten(1)), direct.probe.scores(x[:, 2].flatten(1)), rtol=0, atol=EXACT
        )
    _, cache = cutaway.run_with_cache(model, tokens, list(plain), pos=[2])
    cached = probing.probe_cache(cache, labels, pos=2, n_folds=3, n_nulls=1)
    assert [each.validation for each in cached.scores] == [found.at(name, 2).validation for name in plain]


def test_uneven_texts_are_read_at_their_own_ends() -> None:
    model = small_model()
    tokens, lengths = torch.randint(0, 50, (4, 9), generator=torch.Generator().manual_seed(0)), (9, 5, 7, 6)
    rows = cutaway.interp.rows.Rows(tokens, lengths)
    spots = probing.activations.Spots.at_position(rows, -2)
    [[x]] = probing.activations.activations_of(model, "blocks.1.resid_post", [spots]).values()
    for row, length in enumerate(lengths):
        hooks, plain = recording("blocks.1.resid_post")
        model(tokens[row : row + 1, :length], hooks=hooks)
        torch.testing.assert_close(x[row], plain["blocks.1.resid_post"][0, -2], rtol=0, atol=EXACT)


def test_the_path_goes_from_learned_by_heart_to_nothing() -> None:
    x = normal(60, 40)
    labels = (x[:, 0] + normal(60, seed=2) > 0).tolist()
    path = probing.regularization_path(x, labels, l2s=[1e-3, 1e-1, 10.0])
    assert path.fitted[0] == 1.0
    assert list(path.norms) == sorted(path.norms, reverse=True)
    folds = text_folds(Task.of(labels), 5, seed=0)
    kept = probing.cross_validate(x, Task.of(labels), Logistic(l2=1e-1), folds=folds)[0]
    assert path.held_out[1].value == pytest.approx(float((kept == Task.of(labels).targets).double().mean()))
    ridge = probing.regularization_path(x, x[:, 0].tolist(), kind=Ridge(), l2s=[1e-6, 100.0])
    assert ridge.measure == "R²"
    assert ridge.held_out[0].value > 0.99
    assert ridge.best == 1e-6


def test_three_classes_and_numbers() -> None:
    x = normal(150, 5)
    labels = x[:, :3].argmax(1).tolist()
    for kind, least in (("logistic", 0.85), ("mlp", 0.8), ("mean-difference", 0.7)):  # the last is no best cut, chance is 0.4
        assert probing.probe_rows(x, labels, kind=kind, n_nulls=1).best.validation.held_out.value > least
    numbers = probing.probe_rows(x, (2 * x[:, 0] - x[:, 3]).tolist(), kind="ridge", n_nulls=2).best
    assert numbers.validation.held_out.value > 0.95
    assert numbers.validation.shuffled.value < 0.1
    assert isinstance(numbers.probe, LinearProbe)
    expected = torch.tensor([2.0, 0, 0, -1, 0], dtype=torch.float64) / math.sqrt(5)
    torch.testing.assert_close(numbers.probe.direction, expected, rtol=0, atol=0.05)  # the penalty and 90 rows


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: probing.probe_rows(X, ["past"] * 12), "all 12 labels are 'past': a probe tells classes apart"),
        (lambda: probing.probe_rows(X, [1.0] * 12, kind="ridge"), "all 12 labels are 1.0: a probe tells numbers apart"),
        (lambda: probing.probe_rows(X, [*range(11), "x"], kind="ridge"), "'x' is no number"),
        (lambda: probing.probe_rows(X, list(range(12))), "for numbers give the kind 'ridge'"),
        (
            lambda: probing.probe_rows(X, ["a", "b"] * 6, groups=[0, 1, 2] * 4),
            "there are 3 texts (the same ones, and those of a group, count once) and 5 folds",
        ),
        (lambda: probing.probe_rows(X, ["a", "b"] * 5), "there are 12 rows and 10 labels"),
        (lambda: probing.probe_rows(X, ["a"] + ["b"] * 11), "the label 'a' is of too few texts"),
        (lambda: probing.probe_rows(X, ["a", "b"] * 6, n_folds=1), "n_folds is 1"),
        (lambda: probing.probe_rows(X, ["a", "b"] * 6, n_nulls=0), "n_nulls is 0"),
        (lambda: text_folds(Task.of(["a", "b"] * 6), 2, seed=2**64), "a whole number of 64 bits"),
        (lambda: probing.probe_rows(X, ["a", "b"] * 6, with_control=True), "give words, one a row"),
        (lambda: probing.probe_rows(X, ["a", "b"] * 6, words=[7] * 12, with_control=True), "all 12 rows stand at the same token"),
        (lambda: probing.probe_rows(X, ["a", "b"] * 6, words=[7] * 11), "12 labels and 11 words"),
        (lambda: probing.probe_rows(X / 0, ["a", "b"] * 6), "not finite"),
        (lambda: probing.probe_rows(X, ["a", "b"] * 6, kind="svm"), "there is no probe 'svm'"),
        (lambda: probing.probe_rows(X, ["a", "b"] * 6, kind=Logistic(l2=0)), "l2 is 0; give a number above 0"),
        (lambda: probing.probe(planted_model(), TEXTS, ["a"] * 11), "there are 12 texts and 11 labels"),
        (lambda: probing.probe(planted_model(), TEXTS, ["a", "b"] * 6, pos=20), "text 0 has 16 tokens, so there is no position 20"),
        (lambda: probing.probe(planted_model(), TEXTS, ["a", "b"] * 6, pos=None), "each text has one label"),
        (lambda: probing.probe(planted_model(), TEXTS, [["a", "b"]] * 12, pos=None), "text 0 has 16 tokens and 2 labels"),
        (lambda: probing.probe(planted_model(), TEXTS, [["a"] * 16] * 12), "give no position"),
        (
            lambda: probing.probe(planted_model(), TEXTS, ["a", "b"] * 6, names="blocks.0.attn.pattern"),
            "has no vector at each position",
        ),
        (lambda: probing.probe(planted_model(), TEXTS, ["a", "b"] * 6, max_gib=1e-9), "may be used"),
    ],
)
def test_mistakes_are_one_sentence(without_type_checks: None, call, sentence: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"(?s).+") as error:
        call()
    assert sentence in str(error.value)

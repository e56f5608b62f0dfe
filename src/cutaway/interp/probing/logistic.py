"""Logistic regression in float64: the one optimum of a convex loss, found to the last digits, the same on every run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["fit_logistic"]

_MOST_FOR_NEWTON = 300  # parameters; beyond, solving with the Hessian takes longer than the steps that it saves
_MOST_STEPS, _SMALL_GRADIENT = 100, 1e-9


def fit_logistic(
    x: Float[Tensor, "row d"], targets: Int[Tensor, " row"], n_classes: int, *, l2: float
) -> tuple[Float[Tensor, "class d"], Float[Tensor, " class"]]:
    """Return the weights W and biases b that minimise mean cross-entropy of softmax(W x + b), in nats, plus l2/2 |W|².

    Weights and biases sum to 0 over classes. Raises ValueError for an l2 that is not above 0, without which classes that can be told
    apart have no optimum, and where the optimum is not reached.
    """
    if not l2 > 0:
        raise ValueError(
            f"l2 is {l2:g}; give a number above 0: without it the weights of classes that can be told apart grow for ever"
        )
    n_rows, d = x.shape
    rows, basis = x.double(), None
    if n_rows < d:  # the optimum lies in the span of the rows
        basis, upper = torch.linalg.qr(rows.T)  # d row, row row
        rows = upper.T
    problem = _Problem.of(rows, targets, n_classes, l2)
    theta = _newton(problem) if problem.n_parameters <= _MOST_FOR_NEWTON else _lbfgs(problem)
    full = problem.contrasts @ theta
    weight, bias = full[:, :-1], full[:, -1]
    return weight if basis is None else weight @ basis.T, bias


@dataclass(frozen=True)
class _Problem:
    """The loss as a function of n_classes - 1 rows of parameters, the last column being the biases.

    Of the classes' parameters only what differs matters, so they are taken along orthonormal contrasts, which sum to 0: nothing is left
    undetermined, and the penalty is that of all classes.
    """

    rows: Float[Tensor, "row width"]
    """What the rows hold, and a 1 for the bias."""
    one_hot: Float[Tensor, "row class"]
    contrasts: Float[Tensor, "class contrast"]
    penalty: Float[Tensor, " width"]
    """l2 for each weight and 0 for the bias."""

    @classmethod
    def of(cls, rows: Tensor, targets: Tensor, n_classes: int, l2: float) -> _Problem:
        ones = rows.new_ones(len(rows), 1)
        centring = torch.eye(n_classes, dtype=rows.dtype, device=rows.device) - 1 / n_classes
        contrasts = torch.linalg.eigh(centring).eigenvectors[:, 1:]  # the first belongs to 0, and is the same for every class
        penalty = torch.cat([rows.new_full((rows.shape[1],), l2), rows.new_zeros(1)])
        one_hot = torch.nn.functional.one_hot(targets, n_classes).to(rows.dtype)
        return cls(torch.cat([rows, ones], dim=1), one_hot, contrasts, penalty)

    @property
    def n_parameters(self) -> int:
        return self.contrasts.shape[1] * self.rows.shape[1]

    def loss(self, theta: Tensor) -> float:
        log_probs = (self.rows @ theta.T @ self.contrasts.T).log_softmax(-1)
        return float(-(log_probs * self.one_hot).sum() / len(self.rows) + (self.penalty * theta**2).sum() / 2)

    def probs(self, theta: Tensor) -> Float[Tensor, "row class"]:
        probs: Tensor = (self.rows @ theta.T @ self.contrasts.T).softmax(-1)
        return probs

    def gradient(self, theta: Tensor, probs: Tensor) -> Float[Tensor, "contrast width"]:
        return self.contrasts.T @ (probs - self.one_hot).T @ self.rows / len(self.rows) + self.penalty * theta

    def hessian(self, probs: Tensor) -> Float[Tensor, "parameter parameter"]:
        n_contrasts, width = self.contrasts.shape[1], self.rows.shape[1]
        along = probs @ self.contrasts  # row contrast
        curvature = torch.einsum("nk,ka,kb->nab", probs, self.contrasts, self.contrasts) - along[:, :, None] * along[:, None, :]
        blocks = torch.stack(
            [
                torch.stack([(self.rows * curvature[:, a, b, None]).T @ self.rows for b in range(n_contrasts)])
                for a in range(n_contrasts)
            ]
        )  # contrast contrast width width
        full = blocks.permute(0, 2, 1, 3).reshape(n_contrasts * width, -1) / len(self.rows)
        return full + torch.diag(self.penalty.repeat(n_contrasts))


def _newton(problem: _Problem) -> Float[Tensor, "contrast width"]:
    theta = problem.rows.new_zeros(problem.contrasts.shape[1], problem.rows.shape[1])
    loss = problem.loss(theta)
    for _ in range(_MOST_STEPS):
        probs = problem.probs(theta)
        gradient = problem.gradient(theta, probs)
        if float(gradient.abs().max()) < _SMALL_GRADIENT:
            return theta
        step = torch.linalg.solve(problem.hessian(probs), gradient.reshape(-1)).reshape(theta.shape)
        size, slope = 1.0, float((step * gradient).sum())
        while (new := problem.loss(theta - size * step)) > loss - 1e-4 * size * slope + 1e-14 * abs(loss) and size > 1e-6:
            size /= 2
        theta, loss = theta - size * step, new
    raise _not_reached(problem, theta)


def _lbfgs(problem: _Problem) -> Float[Tensor, "contrast width"]:
    """Minimise over coordinates in which the loss is equally steep every way at its start."""
    n_classes = len(problem.contrasts)
    start = problem.rows.T @ problem.rows / (len(problem.rows) * n_classes) + torch.diag(problem.penalty)
    root = torch.linalg.cholesky(start)
    whitened = problem.rows.new_zeros(problem.contrasts.shape[1], problem.rows.shape[1]).requires_grad_()

    def theta() -> Tensor:
        found: Tensor = torch.linalg.solve_triangular(root.T, whitened.detach().T, upper=True).T
        return found

    def closure() -> float:
        here = theta()
        gradient = problem.gradient(here, problem.probs(here))
        whitened.grad = torch.linalg.solve_triangular(root, gradient.T, upper=False).T.contiguous()
        return problem.loss(here)

    with torch.enable_grad():
        optimizer = torch.optim.LBFGS(
            [whitened],
            max_iter=20 * _MOST_STEPS,
            tolerance_grad=_SMALL_GRADIENT,
            tolerance_change=0.0,
            history_size=20,
            line_search_fn="strong_wolfe",
        )
    optimizer.step(closure)
    found = theta()
    if float(problem.gradient(found, problem.probs(found)).abs().max()) > 1e3 * _SMALL_GRADIENT:
        raise _not_reached(problem, found)
    return found


def _not_reached(problem: _Problem, theta: Tensor) -> ValueError:
    gradient = float(problem.gradient(theta, problem.probs(theta)).abs().max())
    l2 = float(problem.penalty.max())
    return ValueError(f"the logistic regression did not reach its optimum (l2 {l2:g}, gradient {gradient:.1g}): give a larger l2")

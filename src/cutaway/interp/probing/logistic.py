"""Logistic regression in float64: the one optimum of a convex loss, found to the last digits, the same on every run."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["fit_logistic"]

_MOST_FOR_HESSIAN = 300  # parameters; beyond, products with it take less than solving with it
_MOST_STEPS, _MOST_PRODUCTS, _SMALL_GRADIENT = 100, 500, 1e-9


def fit_logistic(
    x: Float[Tensor, "row d"],
    targets: Int[Tensor, " row"],
    n_classes: int,
    *,
    l2: float,
    are_classes_alike: bool = False,
) -> tuple[Float[Tensor, "class d"], Float[Tensor, " class"]]:
    """Return the weights W and biases b that minimise mean cross-entropy of softmax(W x + b), in nats, plus l2/2 |W|².

    Where classes count alike the mean is that of each class's own mean. Weights and biases sum to 0 over classes. Raises ValueError for
    an l2 that is not above 0, without which classes that can be told apart have no optimum, and where the optimum is not reached.
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
    shares = torch.full((len(x),), 1 / len(x), dtype=rows.dtype, device=rows.device)
    if are_classes_alike:
        counts = targets.bincount(minlength=n_classes)
        shares = 1 / (counts[targets] * (counts > 0).sum()).to(rows.dtype)
    problem = _Problem.of(rows, targets, n_classes, l2, shares)
    full = problem.contrasts @ _newton(problem)
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
    shares: Float[Tensor, " row"]
    """What each row counts for in the mean; they sum to 1."""

    @classmethod
    def of(cls, rows: Tensor, targets: Tensor, n_classes: int, l2: float, shares: Tensor) -> _Problem:
        ones = rows.new_ones(len(rows), 1)
        centring = torch.eye(n_classes, dtype=rows.dtype, device=rows.device) - 1 / n_classes
        contrasts = torch.linalg.eigh(centring).eigenvectors[:, 1:]  # the first belongs to 0, and is the same for every class
        penalty = torch.cat([rows.new_full((rows.shape[1],), l2), rows.new_zeros(1)])
        one_hot = torch.nn.functional.one_hot(targets, n_classes).to(rows.dtype)
        return cls(torch.cat([rows, ones], dim=1), one_hot, contrasts, penalty, shares)

    @property
    def n_parameters(self) -> int:
        return self.contrasts.shape[1] * self.rows.shape[1]

    def loss(self, theta: Tensor) -> float:
        log_probs = (self.rows @ theta.T @ self.contrasts.T).log_softmax(-1)
        return float(-((log_probs * self.one_hot).sum(dim=1) @ self.shares) + (self.penalty * theta**2).sum() / 2)

    def probs(self, theta: Tensor) -> Float[Tensor, "row class"]:
        probs: Tensor = (self.rows @ theta.T @ self.contrasts.T).softmax(-1)
        return probs

    def gradient(self, theta: Tensor, probs: Tensor) -> Float[Tensor, "contrast width"]:
        return self.contrasts.T @ self._shared(probs - self.one_hot).T @ self.rows + self.penalty * theta

    def hessian_times(self, theta: Tensor, probs: Tensor) -> Float[Tensor, "contrast width"]:
        moved = probs * (self.rows @ theta.T @ self.contrasts.T)
        moved = moved - probs * moved.sum(dim=1, keepdim=True)
        return self.contrasts.T @ self._shared(moved).T @ self.rows + self.penalty * theta

    def _shared(self, values: Float[Tensor, "row class"]) -> Float[Tensor, "row class"]:
        return values * self.shares[:, None]

    def hessian(self, probs: Tensor) -> Float[Tensor, "parameter parameter"]:
        n_contrasts, width = self.contrasts.shape[1], self.rows.shape[1]
        along = probs @ self.contrasts  # row contrast
        curvature = torch.einsum("nk,ka,kb->nab", probs, self.contrasts, self.contrasts) - along[:, :, None] * along[:, None, :]
        curvature = curvature * self.shares[:, None, None]
        blocks = torch.stack(
            [
                torch.stack([(self.rows * curvature[:, a, b, None]).T @ self.rows for b in range(n_contrasts)])
                for a in range(n_contrasts)
            ]
        )  # contrast contrast width width
        full = blocks.permute(0, 2, 1, 3).reshape(n_contrasts * width, -1)
        return full + torch.diag(self.penalty.repeat(n_contrasts))


def _newton(problem: _Problem) -> Float[Tensor, "contrast width"]:
    """Minimise by Newton's method; where the Hessian is large its systems are solved without it."""
    theta = problem.rows.new_zeros(problem.contrasts.shape[1], problem.rows.shape[1])
    solve = _solve_directly if problem.n_parameters <= _MOST_FOR_HESSIAN else _ConjugateGradients(problem).solve
    loss = problem.loss(theta)
    for _ in range(_MOST_STEPS):
        probs = problem.probs(theta)
        gradient = problem.gradient(theta, probs)
        if float(gradient.abs().max()) < _SMALL_GRADIENT:
            return theta
        step = solve(problem, gradient, probs)
        size, slope = 1.0, float((step * gradient).sum())
        while (new := problem.loss(theta - size * step)) > loss - 1e-4 * size * slope + 1e-14 * abs(loss) and size > 1e-6:
            size /= 2
        theta, loss = theta - size * step, new
    gradient = problem.gradient(theta, problem.probs(theta))
    l2 = float(problem.penalty.max())
    raise ValueError(
        f"the logistic regression did not reach its optimum (l2 {l2:g}, gradient {float(gradient.abs().max()):.1g}): give a larger l2"
    )


def _solve_directly(problem: _Problem, gradient: Tensor, probs: Tensor) -> Float[Tensor, "contrast width"]:
    root = torch.linalg.cholesky(problem.hessian(probs))
    step: Tensor = torch.cholesky_solve(gradient.reshape(-1, 1), root).reshape(gradient.shape)
    return step


class _ConjugateGradients:
    """Newton's step from products with the Hessian alone, preconditioned with the Hessian where all classes are alike."""

    def __init__(self, problem: _Problem) -> None:
        start = (problem.rows * problem.shares[:, None]).T @ problem.rows / len(problem.contrasts) + torch.diag(problem.penalty)
        self.root = torch.linalg.cholesky(start)

    def solve(self, problem: _Problem, gradient: Tensor, probs: Tensor) -> Float[Tensor, "contrast width"]:
        """Return the step as exactly as the gradient is small: the nearer the optimum, the more it pays."""
        step, residual = torch.zeros_like(gradient), gradient.clone()
        towards = direction = self._preconditioned(residual)
        steep, length = float((residual * towards).sum()), float(gradient.norm())
        for _ in range(_MOST_PRODUCTS):
            if float(residual.norm()) <= min(0.1, length**0.5) * length:
                break
            product = problem.hessian_times(direction, probs)
            size = steep / float((direction * product).sum())
            step, residual = step + size * direction, residual - size * product
            towards = self._preconditioned(residual)
            before, steep = steep, float((residual * towards).sum())
            direction = towards + steep / before * direction
        return step

    def _preconditioned(self, x: Tensor) -> Tensor:
        return torch.cholesky_solve(x.T, self.root).T

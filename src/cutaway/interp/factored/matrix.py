"""A product of two thin matrices that is never multiplied out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import einsum
from jaxtyping import Complex, Float
from torch import Tensor

from cutaway.model.norms import at_least_float32

__all__ = ["FactoredMatrix", "SVD"]


class SVD(NamedTuple):
    """`U diag(S) Vh` with orthonormal columns in U and rows in Vh; S falls."""

    U: Float[Tensor, "*leading row rank"]
    S: Float[Tensor, "*leading rank"]
    Vh: Float[Tensor, "*leading rank column"]


@dataclass(frozen=True, eq=False, repr=False)
class FactoredMatrix:
    """The matrix `A @ B` of low rank, kept as its factors, with any leading axes; these broadcast.

    Everything but `AB` is computed through the small inner axis: of a head of GPT-2, 64 numbers wide where the matrix is 768 x 768.
    Raises ValueError for factors that do not fit together.

    >>> import torch
    >>> from cutaway.interp.factored import FactoredMatrix
    >>> M = FactoredMatrix(torch.randn(12, 100, 4), torch.randn(12, 4, 50))
    >>> M, M.svd().S.shape, (M[3] @ M[5].T).shape
    (FactoredMatrix(12 x 100 x 50, inner 4), torch.Size([12, 4]), torch.Size([100, 100]))
    """

    A: Float[Tensor, "*#leading row inner"]
    B: Float[Tensor, "*#leading inner column"]

    def __post_init__(self) -> None:
        a, b = self.A.shape, self.B.shape
        if len(a) < 2 or len(b) < 2 or a[-1] != b[-2]:
            raise ValueError(f"factors of shapes {tuple(a)} and {tuple(b)} have no product; give them one inner size")
        try:
            leading = torch.broadcast_shapes(a[:-2], b[:-2])
        except RuntimeError:
            raise ValueError(
                f"the leading axes of {tuple(a)} and {tuple(b)} do not fit together; give both the same, or 1 where one repeats"
            ) from None
        object.__setattr__(self, "A", self.A.expand(*leading, -1, -1))
        object.__setattr__(self, "B", self.B.expand(*leading, -1, -1))

    @property
    def AB(self) -> Float[Tensor, "*leading row column"]:
        """The matrix itself, multiplied out."""
        return self.A @ self.B

    @property
    def shape(self) -> torch.Size:
        """The shape of the product: leading axes, rows, columns."""
        return torch.Size([*self.A.shape[:-1], self.B.shape[-1]])

    @property
    def inner(self) -> int:
        """The size of the inner axis, which the rank does not exceed."""
        return self.A.shape[-1]

    @property
    def T(self) -> FactoredMatrix:
        """The transpose of every matrix: `B^T A^T`."""
        return FactoredMatrix(self.B.mT, self.A.mT)

    def __repr__(self) -> str:
        return f"FactoredMatrix({' x '.join(map(str, self.shape))}, inner {self.inner})"

    def __getitem__(self, index: object) -> FactoredMatrix:
        """Return the matrices at an index of the leading axes; raises ValueError for one that goes into rows and columns."""
        axes = index if isinstance(index, tuple) else (index,)
        n_leading = len(self.shape) - 2
        if (
            Ellipsis in [axis for axis in axes if not isinstance(axis, Tensor)]
            or sum(axis is not None for axis in axes) > n_leading
        ):
            raise ValueError(
                f"an index of this {self!r} has at most its {n_leading} leading axes; rows and columns are in .A and .B"
            )
        return FactoredMatrix(self.A[index], self.B[index])  # type: ignore[index]

    def __matmul__(self, other: Float[Tensor, "..."] | FactoredMatrix) -> Float[Tensor, "..."] | FactoredMatrix:
        """Return `A B other`: a factored matrix, or for a vector a vector. Of two inner axes the smaller is kept."""
        if isinstance(other, Tensor):
            return (self.A @ (self.B @ other)[..., None])[..., 0] if other.ndim == 1 else FactoredMatrix(self.A, self.B @ other)
        middle = self.B @ other.A
        if self.inner <= other.inner:
            return FactoredMatrix(self.A, middle @ other.B)
        return FactoredMatrix(self.A @ middle, other.B)

    def __rmatmul__(self, other: Float[Tensor, "..."]) -> Float[Tensor, "..."] | FactoredMatrix:
        """Return `other A B`: a factored matrix, or for a vector a vector."""
        return ((other @ self.A)[..., None, :] @ self.B)[..., 0, :] if other.ndim == 1 else FactoredMatrix(other @ self.A, self.B)

    def svd(self) -> SVD:
        """Return the singular value decomposition, of rank at most `min(row, inner, column)`.

        With `A = Q_A R_A` and `B^T = Q_B R_B`, only `R_A R_B^T`, of the inner size, is to be decomposed.
        """
        Q_A, R_A = torch.linalg.qr(at_least_float32(self.A))
        Q_B, R_B = torch.linalg.qr(at_least_float32(self.B).mT)
        U, S, Vh = torch.linalg.svd(R_A @ R_B.mT, full_matrices=False)
        return SVD(Q_A @ U, S, Vh @ Q_B.mT)

    def eigenvalues(self) -> Complex[Tensor, "*leading inner"]:
        """Return the eigenvalues of `B A`, which are those of `A B` but for zeros (fewer than `inner` where there are fewer rows).

        They come in no order. Raises ValueError for matrices that are not square.
        """
        self._check_square("eigenvalues")
        eigenvalues: Tensor = torch.linalg.eigvals(at_least_float32(self.AB if self.shape[-1] < self.inner else self.B @ self.A))
        return eigenvalues

    def norm(self) -> Float[Tensor, "*leading"]:
        """Return the Frobenius norm, as that of `R_A B` where `A = Q_A R_A`: no small number is left of large squares."""
        norm: Tensor = torch.linalg.matrix_norm(torch.linalg.qr(at_least_float32(self.A)).R @ at_least_float32(self.B))
        return norm

    def trace(self) -> Float[Tensor, "*leading"]:
        """Return the sum of the diagonal, `sum_ij A_ij B_ji`; raises ValueError for matrices that are not square."""
        self._check_square("a trace")
        return einsum(self.A, self.B, "... row inner, ... inner row -> ...")

    def _check_square(self, wanted: str) -> None:
        if self.shape[-1] != self.shape[-2]:
            raise ValueError(f"{self!r} is not square, so it has no {wanted.removeprefix('a ')}; multiply it to a square one first")

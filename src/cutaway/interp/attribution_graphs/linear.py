"""The edges of a graph: what every node writes, carried through the linearised model to what a target reads.

    edge(source, target) = (activation x decoder) . d(encoder . read) / d(written)

The derivative is taken at what each MLP layer writes, features and errors of all other layers being constants: an edge is a direct
effect. Where norms or patterns are not frozen it goes through them too, at their values in the run. One backward pass gives all edges
into a target, and many targets share one.
"""

from __future__ import annotations

from functools import cached_property

import torch
from einops import einsum
from jaxtyping import Float, Int
from torch import Tensor

from cutaway.interp.attribution_graphs.replacement import Frozen, Replacement

__all__ = ["Linearised"]


class Linearised:
    """The model as linear maps from where nodes write to where targets read, for one prompt.

    Sources stand in the order features (by layer, position, number), errors (by layer, position), tokens (by position).
    """

    def __init__(self, replacement: Replacement, *, frozen: Frozen = "both") -> None:
        self.replacement, self.model = replacement, replacement.model
        n_layers = self.model.config.n_layers
        with torch.enable_grad():
            self._start = replacement.start.detach().requires_grad_()
            self._written = [replacement.written(layer).requires_grad_() for layer in range(n_layers)]
            self._stream = replacement.run(
                self._start, lambda layer, read, x: self._written[layer] + replacement.constant(layer, read, x), frozen=frozen
            )

    @cached_property
    def features(self) -> Int[Tensor, "feature 3"]:
        """Layer, position and number of every feature above zero."""
        found = [torch.zeros(0, 3, dtype=torch.long, device=self._start.device)]
        for layer, latents in self.replacement.latents.items():
            places = latents[0].nonzero()
            found.append(torch.cat([torch.full_like(places[:, :1], layer), places], dim=1))
        return torch.cat(found)

    @cached_property
    def activations(self) -> Float[Tensor, " feature"]:
        """How strong each is."""
        each = [latents[0][latents[0] != 0] for latents in self.replacement.latents.values()]
        return torch.cat([self._start.new_zeros(0).detach(), *each])

    @cached_property
    def errors(self) -> Int[Tensor, "error 2"]:
        """Layer and position of every error."""
        n_pos = self._start.shape[1]
        layers = torch.arange(len(self._written), device=self._start.device)
        return torch.stack([layers.repeat_interleave(n_pos), torch.arange(n_pos, device=layers.device).repeat(len(layers))], dim=1)

    @property
    def n_sources(self) -> int:
        """Features, errors and tokens together."""
        return len(self.features) + len(self.errors) + self._start.shape[1]

    def encoders(self, which: Int[Tensor, " target"]) -> Float[Tensor, "target d_model"]:
        """Return what each of these features multiplies its input with; they are all of one layer."""
        layer = int(self.features[which[0], 0])
        return self.replacement.transcoders[layer].W_enc.detach()[:, self.features[which, 2]].T

    def to_features(self, which: Int[Tensor, " target"]) -> Float[Tensor, "target source"]:
        """Return the edges into features, given by their places in `features`, all of one layer."""
        layer, pos = int(self.features[which[0], 0]), self.features[which, 1]
        ends = self._start.new_zeros(len(which), *self._stream.reads[layer].shape).detach()
        ends[torch.arange(len(which)), 0, pos] = self.encoders(which)
        return self._edges(self._stream.reads[layer], ends, n_layers=layer)

    def to_logits(self, directions: Float[Tensor, "target d_model"]) -> Float[Tensor, "target source"]:
        """Return the edges into what these directions read from the last norm's output."""
        return self._edges(self._stream.normed, directions[:, None, None], n_layers=len(self._written))

    def batch_size(self, max_gib: float) -> int:
        """Return how many targets may share a backward pass that is to hold so much."""
        n_pos, config = self._start.shape[1], self.model.config
        numbers = n_pos * (config.d_model * (len(self._written) + 12) + 6 * config.n_heads * config.d_head) + self.n_sources
        return max(1, int(max_gib * 2**30 / (numbers * self._start.element_size())))

    def _edges(
        self, read: Float[Tensor, "1 any_pos d_model"], ends: Float[Tensor, "target 1 any_pos d_model"], *, n_layers: int
    ) -> Float[Tensor, "target source"]:
        """Return the edges into what `ends` multiply `read` with, from the tokens and the first so many layers."""
        leaves = [self._start, *self._written[:n_layers]]
        at_start, *at_layers = torch.autograd.grad(read, leaves, ends, retain_graph=True, is_grads_batched=True)
        n_pos, n_features = self._start.shape[1], len(self.features)
        edges = ends.new_zeros(len(ends), self.n_sources)
        for layer, at in enumerate(at_layers):
            for pos, span in enumerate(self._spans.get(layer, [])):
                edges[:, span] = at[:, 0, pos] @ self._vectors[span].T
            first = n_features + layer * n_pos
            edges[:, first : first + n_pos] = _along(at[:, 0], self.replacement.errors[layer][0])
        edges[:, -n_pos:] = _along(at_start[:, 0], self._start[0].detach())
        return edges

    @cached_property
    def _vectors(self) -> Float[Tensor, "feature d_model"]:
        """What each feature writes."""
        each = [
            self.replacement.transcoders[layer].W_dec.detach()[self.features[self.features[:, 0] == layer, 2]]
            for layer in self.replacement.transcoders
        ]
        return self.activations[:, None] * torch.cat(each)

    @cached_property
    def _spans(self) -> dict[int, list[slice]]:
        """By layer and position, where the features stand."""
        spans: dict[int, list[slice]] = {}
        start = 0
        for layer, latents in self.replacement.latents.items():
            spans[layer] = []
            for n in (latents[0] != 0).sum(1).tolist():
                spans[layer].append(slice(start, start + n))
                start += n
        return spans


def _along(at: Float[Tensor, "target pos d_model"], written: Float[Tensor, "pos d_model"]) -> Float[Tensor, "target pos"]:
    return einsum(at, written, "target pos d_model, pos d_model -> target pos")

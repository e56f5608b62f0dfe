"""Generation under edits: a model that computes with them, and text from it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from cutaway.config import ModelConfig
from cutaway.hooks import NO_HOOKS, Hook, Hooks
from cutaway.interp.editing import PlacedEdit, for_query_heads, place
from cutaway.interp.edits import Edit
from cutaway.interp.sites import site_of
from cutaway.language_model import LanguageModel
from cutaway.model import KVCache, Transformer

__all__ = ["EditedTransformer", "generate_with_edits"]


class EditedTransformer(Transformer):
    """A model of another's weights, the same memory, whose blocks always compute with edits, from position `from_pos` on.

    An edit without positions is made at each of them, as they come; one with positions there. Raises ValueError for edits outside the
    blocks and for positions from the end, which generation moves.
    """

    def __init__(self, model: Transformer, edits: Sequence[Edit], *, from_pos: int = 0) -> None:
        nn.Module.__init__(self)
        for edit in edits:
            if outside := [name for name in (edit.name, edit.source) if name is not None and site_of(name).layer is None]:
                raise ValueError(f"{edit}: generation is edited inside the blocks, and {outside[0]!r} is outside them")
            if any(pos < 0 for pos in _positions(edit) or ()):
                raise ValueError(f"{edit}: the end moves while text is generated; count positions from 0")
        model, edits = for_query_heads(model, edits)
        self.config = model.config
        self.placed = [placed for edit in edits if (placed := _from(edit, from_pos, model.config)) is not None]
        self.embed, self.unembed, self.blocks = model.embed, model.unembed, model.blocks
        self.qk_positions, self.rotary = model.qk_positions, model.rotary
        self.training = model.training  # and not train(), which would reach into modules that are not its own

    def run_blocks(
        self,
        resid: Float[Tensor, "*batch pos d_model"],
        layers: range | None = None,
        *,
        positions: Int[Tensor, "..."] | None = None,
        mask: Bool[Tensor, "*broadcast #q_pos #k_pos"] | None = None,
        kv: KVCache | None = None,
        n_last: int | None = None,
        hooks: Hooks = NO_HOOKS,
    ) -> Float[Tensor, "*batch last_pos d_model"]:
        """Carry the residual stream through the layers with the edits; `hooks` see what comes of them."""
        if positions is None:
            start = 0 if layers is None else layers.start
            positions = self.next_positions(resid.shape[-2], kv=kv, layer=start, device=resid.device)
        functions: dict[str, list[Hook]] = {}
        for placed in self.placed:
            held: list[Tensor | None] = []
            if placed.edit.source is not None:
                reads = partial(self._read, placed=placed, positions=positions, held=held)
                functions.setdefault(placed.edit.source, []).append(reads)
            writes = partial(self._edited, placed=placed, positions=positions, held=held)
            functions.setdefault(placed.edit.name, []).append(writes)
        if hooks is not NO_HOOKS:
            functions["*"] = [lambda x, name: hooks(name, x) if hooks.wants(name) else None]
        return super().run_blocks(resid, layers, positions=positions, mask=mask, kv=kv, n_last=n_last, hooks=Hooks(functions))

    def _read(self, x: Tensor, _name: str, *, placed: PlacedEdit, positions: Tensor, held: list[Tensor | None]) -> None:
        ends = [int(of_row[-1]) + 1 for of_row in positions.expand(len(x), -1)]
        held[:] = [placed.read_source(x[row : row + 1], end) for row, end in enumerate(ends)]

    def _edited(self, x: Tensor, _name: str, *, placed: PlacedEdit, positions: Tensor, held: list[Tensor | None]) -> Tensor:
        x = x.clone()
        for row, of_row in enumerate(positions.expand(len(x), -1)):
            placed.write(x[row : row + 1], int(of_row[-1]) + 1, held[row] if held else None)
        return x


def generate_with_edits(
    lm: LanguageModel, prompt: str, edits: Sequence[Edit], *, edit_prompt: bool = True, max_new_tokens: int = 100, **options: Any
) -> str:
    """Return the prompt with a continuation under edits; `options` are those of `lm.generate`.

    With `edit_prompt=False` the prompt is read as it is and edits begin at the first new token. Raises ValueError as
    `EditedTransformer` does, and for text past the context, where positions move, unless all positions are edited.
    """
    n_prompt, n_ctx = lm.tokens(prompt, bos=options.get("bos")).shape[1], lm.config.n_ctx
    is_everywhere = edit_prompt and all(edit.pos is None for edit in edits)
    if not is_everywhere and n_prompt + max_new_tokens > n_ctx:
        raise ValueError(
            f"{n_prompt} tokens of the prompt and {max_new_tokens} new ones are more than the context of {n_ctx}, past which positions "
            "move and edits of some of them would act on other tokens: give fewer"
        )
    model = EditedTransformer(lm.model, edits, from_pos=0 if edit_prompt else n_prompt)
    with torch.no_grad():
        return LanguageModel(model, lm.tokenizer, lm.chat_template).generate(prompt, max_new_tokens=max_new_tokens, **options)


def _positions(edit: Edit) -> tuple[int, ...] | None:
    return (edit.pos,) if isinstance(edit.pos, int) else None if edit.pos is None else tuple(edit.pos)


def _from(edit: Edit, from_pos: int, config: ModelConfig) -> PlacedEdit | None:
    """Return an edit placed in a row of the whole context, at its positions from `from_pos` on; None where it has none there."""
    given = _positions(edit)
    placed = place(edit, config, n_pos=config.n_ctx, n_rows=1)
    if min(given or (0,)) >= from_pos:
        return placed
    if isinstance(edit.pos, int):
        return None
    return placed.at([pos for pos in (range(config.n_ctx) if given is None else given) if pos >= from_pos])

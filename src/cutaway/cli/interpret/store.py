"""`cutaway interpret store`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from cutaway.cli.interpret.options import analysis
from cutaway.cli.many_processes import shares_work
from cutaway.report import print_sentence, stderr_console
from cutaway.report.counting import count_progress

if TYPE_CHECKING:
    from cutaway.interp.result import Result
    from cutaway.language_model import LanguageModel

__all__ = ["store"]


@shares_work
@analysis(data="stdlib", names=("blocks.9.resid_post",), max_tokens=8192, dtype="bfloat16")
def store(
    lm: LanguageModel,
    *,
    data: str,
    names: tuple[str, ...],
    out: Path | None = None,
    dtype: Literal["bfloat16", "float16", "float32", "float64"] | None = None,
    n_ctx: int | None = None,
    max_tokens: int | None = None,
    skip_first: bool = False,
    batch_size: int | None = None,
    shard_gib: float = 0.25,
    source: str = "",
) -> Result:
    """Write the activations of a text, token by token, into a folder of safetensors; without --out say how much that would be.

    Memory holds two shards, however many there are. The same command goes on with a store that was stopped, and the files become those
    of one that never was. The model runs up to the last layer that is wanted.

    Args:
        data CORPUS: a file, a folder, a glob, token shards (.bin), or stdlib, shakespeare, tinyshakespeare
        names NAME: an activation or a glob, as 'blocks.*.resid_post'; may be given again
        out FOLDER: where the store goes, or goes on
        dtype: what is stored; the model's own unless given
        n_ctx: tokens of a window, 128 unless given
        max_tokens: stop after so many tokens
        skip_first: leave out the first position of each window, whose activations are often far longer
        batch_size: windows that run together
        shard_gib X: the most that one file holds

    Examples:
        cutaway interpret store --demo
        cutaway interpret store smollm2-135m --data stdlib --names 'blocks.9.*_out' --max-tokens 1000000 --dtype bfloat16
        cutaway interpret store smollm2-135m --data stdlib --names blocks.9.resid_post --max-tokens 200000 --out smollm2-activations
        cutaway interpret store smollm2-135m --data stdlib --names blocks.2.mlp.post --max-tokens 20000 --out activations

    In Python:
        import torch
        from cutaway import store
        kept = store.collect(lm, "stdlib", "blocks.9.resid_post", "activations", dtype=torch.bfloat16)
        for batch in kept["blocks.9.resid_post"].batches(4096, seed=0): ...
    """
    from cutaway.interp import store as stores

    options: dict[str, Any] = {"ctx": n_ctx, "max_tokens": max_tokens, "skip_first": skip_first, "batch_size": batch_size}
    options |= {"shard_gib": shard_gib, "dtype": None if dtype is None else stores.DTYPES[dtype]}
    expected = stores.estimate(lm, data, names, **options)
    if out is None:
        print_sentence(stderr_console(), Text("Nothing is written: --out FOLDER does that.", style="dim"))
        return expected

    def say_plan() -> None:
        print_sentence(stderr_console(), Text(expected.summary(), style="dim"))

    try:
        with count_progress("tokens") as progress:
            found = stores.collect(lm, data, names, out, source=source, progress=progress, announce=say_plan, **options)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted: the shards that are whole stay in {out}; the same command goes on") from None
    return stores.describe_store(found)

"""`cutaway bench`: how fast this package is here, beside other programs and beside what the machine could do at most."""

from __future__ import annotations

import json as jsons
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table
from rich.text import Text

from cutaway.cli.errors import UsageError, report_warning
from cutaway.report import (
    format_bytes,
    format_count,
    print_json,
    print_sentence,
    stderr_console,
    stdout_console,
    table,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cutaway.profiles import Bench, Comparison, Growth, Request

__all__ = ["bench"]

_What = Literal["decode", "forward", "train", "sweep", "limits", "growth", "profile"]

_TAKES: dict[_What, set[str]] = {
    "decode": {"preset", "dtype", "length", "rounds", "compile"},
    "forward": {"preset", "dtype", "batch", "length", "rounds", "transformer_lens"},
    "train": {"preset", "dtype", "batch", "length", "rounds", "nanogpt"},
    "sweep": {"preset", "dtype", "length", "rounds", "transformer_lens"},
    "limits": {"dtype"},
    "growth": {"preset", "length", "rounds"},
    "profile": {"preset", "rounds", "nanogpt", "transformer_lens"},
}
"""The options that each has of its own."""

_FILES = {f"{what}.{ending}" for what in _TAKES for ending in ("json", "svg", "png")}
_N_FILE_BYTES = 2**22


def bench(
    what: _What = "decode",
    /,
    *,
    preset: str | None = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    batch: int | None = None,
    length: int | None = None,
    compile: bool = False,
    rounds: int | None = None,
    nanogpt: Path | None = None,
    transformer_lens: Path | None = None,
    out: Path | None = None,
    device: str | None = None,
    json: bool = False,
) -> None:
    """Measure random weights of a shape here, in turn with other programs, beside the limits of the machine.

    decode, forward, train and sweep are each held against nanoGPT, transformers or TransformerLens, where they are at hand and after
    their numbers were found to agree. limits shows what the machine can do at most; growth, how time and memory grow with length and
    size, beside the law for it; profile does train, forward, decode and sweep, which takes minutes.

    Args:
        what: what to measure
        preset NAME: the model's shape; gpt2 unless given, and to train on a CPU shakespeare-char
        dtype: what it computes in; float32 unless given, and to train whatever the device is fastest in
        batch: rows that are read at once
        length: tokens in a row; with decode, before the one that is measured; with growth, at most
        compile: with decode, also measure the compiled step
        rounds: over how many the median is taken
        nanogpt DIR: a clone of nanoGPT to train beside
        transformer_lens PYTHON: a Python that has TransformerLens 2, to patch beside
        out FOLDER: write WHAT.json and a chart, WHAT.svg and WHAT.png, there
        device NAME: auto, cpu, cuda or mps
        json: print JSON

    Examples:
        cutaway bench decode --preset shakespeare-char
        cutaway bench forward
        cutaway bench train --nanogpt nanoGPT
        cutaway bench growth --out profile
        cutaway bench profile --nanogpt nanoGPT --transformer-lens lens/bin/python --out profile

    In Python:
        from cutaway import profiles
        (found,) = profiles.WORKS["forward"](profiles.Bench(), profiles.Request())
        found.share("cutaway")
    """
    own = {
        "preset": preset, "dtype": dtype, "batch": batch, "length": length, "compile": compile or None, "rounds": rounds,
        "nanogpt": nanogpt, "transformer_lens": transformer_lens,
    }  # fmt: skip
    _check(what, own)
    if out is not None:
        from cutaway.runtime import check_folder, check_room

        check_folder(out, "profiles", _FILES)
        check_room(out, _N_FILE_BYTES)
    import torch

    from cutaway.profiles import Bench, Request, open_peers
    from cutaway.runtime import describe_device, pick_device

    place = pick_device(device)
    request = Request(preset=preset, dtype=dtype and getattr(torch, dtype), batch=batch, length=length, compile=compile)
    with open_peers(nanogpt=nanogpt, transformer_lens=transformer_lens) as peers:
        run = Bench(device=place, peers=peers, n_rounds=rounds, tell=report_warning)
        stderr_console().print(f"{what} on {describe_device(place)}{_patience(what)}", style="dim", highlight=False)
        record = _MEASURE[what](run, request, show=not json, keep=partial(_write, out, what))
    if json:
        print_json(record)
    elif out is not None:
        names = f"{what}.json" if what == "limits" else f"{what}.json, {what}.svg, {what}.png"
        print_sentence(stdout_console(), Text.assemble("\nWritten into ", (str(out), "bold"), f": {names}."))


def _check(what: _What, own: Mapping[str, object]) -> None:
    """Raise UsageError for an option that this measures nothing by, and for counts of none; ValueError for an unknown shape."""
    from cutaway.config import ModelConfig

    for name, value in own.items():
        if value is not None and name not in _TAKES[what]:
            others = ", ".join(other for other, names in _TAKES.items() if name in names)
            raise UsageError(f"--{name.replace('_', '-')} is nothing for `cutaway bench {what}`; it is for {others}")
        if isinstance(value, int) and value < 1:
            raise UsageError(f"--{name} is {value}; expected at least 1")
    if isinstance(own["preset"], str):
        ModelConfig.preset(own["preset"])


def _patience(what: _What) -> str:
    takes = {"profile": "; this takes some minutes, and each work is shown when it is done", "growth": "; this takes some minutes"}
    return takes.get(what, "")


_Keep = Callable[[dict[str, Any], "Callable[[], Figure] | None"], None]
"""Takes a record and what draws its chart."""


def _compare(what: str, run: Bench, request: Request, *, show: bool, keep: _Keep) -> dict[str, Any]:
    """Measure one work."""
    return _compare_all([(what, request)], run, show=show, keep=keep)


def _profile(run: Bench, request: Request, *, show: bool, keep: _Keep) -> dict[str, Any]:
    """Measure every work: training on a CPU always of the small recipe, decoding in what else the device is fast in too."""
    import torch

    from cutaway.runtime import pick_dtype

    fast = getattr(torch, pick_dtype("auto", run.device))
    _, config = request.config()
    decoding = replace(request, length=min(32, config.n_ctx // 2), compile=True)
    works = [("train", replace(request, preset=None) if run.is_cpu else request)]
    works += [("forward", replace(request, dtype=torch.float32 if run.is_cpu else fast))]
    works += [("decode", replace(decoding, dtype=dtype)) for dtype in dict.fromkeys([torch.float32, fast])]
    works += [("sweep", request)]
    return _compare_all(works, run, show=show, keep=keep)


def _compare_all(works: Sequence[tuple[str, Request]], run: Bench, *, show: bool, keep: _Keep) -> dict[str, Any]:
    """Measure some works, show and keep each as soon as it is done, and return the record of all."""
    from cutaway.profiles import WORKS, processor, profile_figure, record_of
    from cutaway.runtime import describe_device

    for sentence in run.peers.absent(*dict.fromkeys(what for what, _ in works)):
        report_warning(sentence)
    machine = f"{processor()}, {describe_device(run.device)}" if run.is_cpu else describe_device(run.device)
    found: list[Comparison] = []
    record = record_of(run)
    for what, request in works:
        measured = WORKS[what](run, request)
        found += measured
        record = record_of(run, found)
        keep(record, partial(profile_figure, found, machine=machine))
        if show:
            _show(measured)
    return record


def _limits(run: Bench, request: Request, *, show: bool, keep: _Keep) -> dict[str, Any]:
    import torch

    from cutaway.profiles import record_of

    limits = run.limits(request.dtype or torch.float32)
    record = record_of(run)
    keep(record, None)
    if show:
        products = f"GFLOP/s, matrix products in {str(request.dtype or torch.float32).removeprefix('torch.')}"
        grid = table(products, "GB/s, memory read", right=[products, "GB/s, memory read"])
        grid.add_row(f"{limits.gflops_per_s:,.0f}", f"{limits.read_gb_per_s:,.3g}")
        stdout_console().print(grid)
    return record


def _growth(run: Bench, request: Request, *, show: bool, keep: _Keep) -> dict[str, Any]:
    from cutaway.profiles import LENGTHS, growth_figure, measure_growth, record_of

    longest = request.length or LENGTHS[-1]
    lengths = [length for length in LENGTHS if length < longest] + [longest]
    growth = measure_growth(run, preset=request.preset or "gpt2", lengths=lengths)
    record = record_of(run, growth=growth)
    keep(record, partial(growth_figure, growth))
    if show:
        _show_growth(growth)
    return record


_MEASURE: dict[_What, Callable[..., dict[str, Any]]] = {
    "decode": partial(_compare, "decode"),
    "forward": partial(_compare, "forward"),
    "train": partial(_compare, "train"),
    "sweep": partial(_compare, "sweep"),
    "limits": _limits,
    "growth": _growth,
    "profile": _profile,
}


def _write(folder: Path | None, what: str, record: dict[str, Any], draw: Callable[[], Figure] | None) -> None:
    """Write what was measured and its chart into a folder, where one was given."""
    if folder is None:
        return
    from cutaway.plots import save_figure
    from cutaway.runtime import atomic_write

    atomic_write(folder / f"{what}.json", jsons.dumps(record, indent=2))
    if draw is not None:
        figure = draw()
        for ending in ("svg", "png"):
            save_figure(figure, folder / f"{what}.{ending}")


def _show(found: Sequence[Comparison]) -> None:
    """Show works as tables: one row a program, or where there are several lengths, one row a length."""
    if len({each.length for each in found}) > 1:
        case = found[-1].case.replace(f"{found[-1].length} tokens", "so many tokens")
        _print(f"{found[-1].work}: {case}; tokens/s", _by_length(found), found[-1])
        return
    for each in found:
        _print(f"{each.work}: {each.case}", _by_program(each), each)


def _print(title: str, grid: Table, comparison: Comparison) -> None:
    console = stdout_console()
    print_sentence(console, Text(title, style="bold"))
    console.print(grid)
    sentences = [f"limit: {comparison.limit}"]
    if comparison.agreement:
        sentences.append(f"the same numbers: at most {max(comparison.agreement.values()):.1e} of the largest logit apart")
    for sentence in sentences:
        print_sentence(console, Text(sentence, style="dim"))
    console.print()


def _by_program(comparison: Comparison) -> Table:
    from cutaway.profiles import rate_in_words, time_in_words

    has_peers, unit = bool(comparison.peers), f"{comparison.unit}/s"
    ratios = ["to the best peer"] if has_peers else []
    headers = ["", "time", unit, *ratios, "of the limit"]
    grid = table(*headers, right=headers[1:])
    for name, time_s in comparison.times_s.items():
        ratio = [f"{comparison.ratio(name):.2f} x"] if has_peers else []
        rate = rate_in_words(comparison, name).partition(" ")[0]
        label = Text(comparison.label(name), style="" if name in comparison.ours else "dim")
        grid.add_row(label, time_in_words(time_s), rate, *ratio, f"{100 * comparison.share(name):.0f} %")
    return grid


def _by_length(found: Sequence[Comparison]) -> Table:
    names = list(found[-1].times_s)
    headers = ["tokens", *names, "the limit"]
    grid = table(*headers, right=headers)
    for each in found:
        rates = [*(each.per_s(name) for name in names), each.n_units / each.limit_s]
        grid.add_row(str(each.length), *(format_count(rate) if rate >= 999.5 else f"{rate:.3g}" for rate in rates))
    return grid


def _show_growth(growth: Growth) -> None:
    from cutaway.profiles import time_in_words

    def pair(measured: float | None, law: float, write: Callable[[float], str]) -> list[str]:
        return ["-" if measured is None else write(measured), write(law)]

    console, law = stdout_console(), growth.law
    headers = ["tokens", "forward", "law", "step", "law ", "memory", "law  ", "of a step", "law   "]
    grid = table(*headers, right=headers, title=f"{growth.preset}, one row, float32: measured, and by the law")
    for cost in growth.lengths:
        cells = pair(cost.forward_s, cost.law_forward_s, time_in_words) + pair(cost.step_s, cost.law_step_s, time_in_words)
        cells += pair(cost.forward_bytes, cost.law_forward_bytes, format_bytes)
        grid.add_row(f"{cost.n_pos:,}", *cells, *pair(cost.step_bytes, cost.law_step_bytes, format_bytes))
    console.print(grid)
    said = (
        f"the law: products with weights at {law.gflops_per_s:,.0f} GFLOP/s and attention at {law.attention_gflops_per_s:,.0f}, each "
        f"measured alone at 1,024 tokens; a step does both three times, and moves the weights in {time_in_words(law.update_s)}"
    )
    print_sentence(console, Text(said, style="dim"))
    headers = ["model", "parameters", "weights", "to train", "keys, values", "forward", "step"]
    grid = table(*headers, right=headers[1:], title="\nBy size, memory from shapes alone, one row of 1,024 tokens by the law")
    for size in growth.sizes:
        sizes = [size.weights_bytes, size.train_state_bytes, size.kv_bytes_a_token]
        times = [size.law_forward_s, size.law_step_s]
        grid.add_row(size.name, format_count(size.n_parameters), *map(format_bytes, sizes), *map(time_in_words, times))
    console.print(grid)
    for size in growth.sizes:
        if size.measured_train_state_bytes is not None:
            apart = "exactly" if size.measured_train_state_bytes == size.train_state_bytes else "not quite"
            said = f"{size.name} really takes {size.measured_train_state_bytes:,} bytes to train here: {apart} that"
            print_sentence(console, Text(said, style="dim"))

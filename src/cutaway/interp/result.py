"""What every analysis returns: data that can be printed, plotted, saved and shown in a report."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from cutaway.report import print_sentence, stdout_console

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rich.console import Console, RenderableType

    from cutaway.report import HtmlReport

__all__ = ["Result"]


class Result(ABC):
    """The outcome of one analysis; subclasses hold the numbers and say how they are shown."""

    title: ClassVar[str]
    """What the analysis is called."""
    source: ClassVar[str]
    """The paper that describes it."""

    @abstractmethod
    def summary(self) -> str:
        """Return in a few plain sentences what was found, with its numbers."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return labels, settings and numbers as values that JSON can hold."""

    @abstractmethod
    def figures(self) -> Sequence[Figure]:
        """Return the figures that show it."""

    @abstractmethod
    def views(self) -> Sequence[RenderableType]:
        """Return what a terminal shows of it."""

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]] | None:
        """Return the header and the rows of the numbers that a report lists under the figures, if any."""
        return None

    def record(self) -> dict[str, Any]:
        """Return `to_dict` under the name of the analysis and its source, as it is written to JSON."""
        return {"analysis": self.title, "source": self.source} | self.to_dict()

    def to_json(self) -> str:
        """Return `record` as text."""
        return json.dumps(self.record(), indent=2, ensure_ascii=False, allow_nan=False)

    def __repr__(self) -> str:
        """Return what it is and what was found, in place of its numbers."""
        return f"<{self.title}: {self.summary()}>"

    def show(self, console: Console | None = None) -> None:
        """Print what was found and the views of it on a terminal."""
        from rich.text import Text

        console = console or stdout_console()
        console.print(Text(self.title, style="bold"))
        print_sentence(console, Text(self.summary()))
        for view in self.views():
            console.print()
            console.print(view)

    def report(self, path: Path | str, *, subtitle: str = "") -> Path:
        """Write one self-contained HTML page of it and return where; `subtitle` stands under the title, as the command does."""
        from cutaway.report import HtmlReport

        page = HtmlReport(self.title, subtitle=subtitle)
        self.add_to(page, heading="")
        return page.write(path)

    def add_to(self, page: HtmlReport, *, heading: str | None = None) -> None:
        """Add it to a page as one section under its title or another heading, its figures one after another."""
        first, *others = [*self.figures(), None]
        text = f"{self.summary()}\n\nMethod: {self.source}."
        page.add(self.title if heading is None else heading, text=text, figure=first, table=None if others else self.table())
        for figure in others[:-1]:
            page.add("", figure=figure)
        if others and (table := self.table()):
            page.add("", table=table)

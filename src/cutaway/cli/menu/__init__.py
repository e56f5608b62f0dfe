"""The menu that bare `cutaway` opens on a terminal."""

from cutaway.cli.menu.loop import open_menu

__all__ = ["open_menu"]

"""Questions answered by arrow keys, asked by questionary in one house style."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutaway.report import is_unicode, stdout_console

if TYPE_CHECKING:
    import questionary

__all__ = ["Line", "GoBack", "pick", "ask_text", "wait_for_key"]

_FRAME = 4  # columns that a line leaves free: the pointer with a space on either side, and the last
_ESCAPE_S = 0.05  # how long Esc waits for more: arrow keys begin with it


class GoBack(Exception):  # noqa: N818  (no error: somebody changed their mind)
    """Somebody wants to be asked the question before again."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One thing to choose: what it is called, what it is in a few words, and why it cannot be chosen, if so."""

    name: str
    about: str = ""
    obstacle: str | None = None


def pick(question: str, groups: Mapping[str, Sequence[Line]], *, leave: str = "Back", start: int = 0) -> int:
    """Let somebody choose a line and return its place among all lines; `start` is where the pointer stands.

    Groups have their names above them, one that is called "" has none. Home and End go to the first and the last line. Raises GoBack
    where the last line is chosen, which says how to `leave`, for Esc and q, and KeyboardInterrupt for Ctrl-C.
    """
    import questionary

    lines = [line for group in groups.values() for line in group]
    widest = max(len(line.name) for line in [*lines, Line(name=leave)])
    choices: list[questionary.Choice] = []
    for name, group in groups.items():
        choices += [questionary.Separator(f"  {name}")] if name else []
        choices += [_choice(line, place, widest) for place, line in enumerate(group, start=_n_choices(choices))]
    choices.append(questionary.Choice(leave, value=len(lines)))
    pointer = "»" if is_unicode(stdout_console()) else ">"
    default = next((choice for choice in choices if choice.value == start and not choice.disabled), None)
    asked = questionary.select(
        question,
        choices=choices,
        default=default,
        qmark="",
        pointer=pointer,
        instruction=f"(arrow keys, Enter; Esc: {leave.lower()})",
        style=_style(),
        erase_when_done=True,
    )
    _add_keys(asked)
    place: int = asked.unsafe_ask()
    if place == len(lines):
        raise GoBack
    return place


def ask_text(question: str, *, default: str = "", is_path: bool = False) -> str:
    """Let somebody type a text, or go on with the one that stands there.

    What is typed takes its place, unless it was changed first. Raises GoBack for an empty text or the end of the input, and
    KeyboardInterrupt for Ctrl-C.
    """
    import questionary

    ask = questionary.path if is_path else questionary.text
    asked = ask(_wrapped(f"{question}:", default), default=default, qmark="", style=_style(), erase_when_done=True)
    if default:
        _replace_when_typed(asked, default)
    try:
        answer = asked.unsafe_ask()
    except EOFError:
        raise GoBack from None
    if not answer.strip():
        raise GoBack
    return str(answer)


def wait_for_key(said: str) -> None:
    """Leave what is on the screen there until a key is pressed."""
    import questionary

    questionary.press_any_key_to_continue(said, style=_style(), erase_when_done=True).unsafe_ask()


def _add_keys(asked: questionary.Question) -> None:
    """Let Esc and q leave a question, and Home and End go to its ends, which questionary has no keys for."""
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent, merge_key_bindings
    from questionary.prompts.common import InquirerControl

    application, keys = asked.application, KeyBindings()
    lines = next(control for control in application.layout.find_all_controls() if isinstance(control, InquirerControl))

    @keys.add("escape", eager=True)
    @keys.add("q", eager=True)
    def _leave(event: KeyPressEvent) -> None:
        event.app.exit(exception=GoBack())

    @keys.add("home", eager=True)
    def _to_first(_: KeyPressEvent) -> None:
        lines.pointed_at = len(lines.choices) - 1  # the last, from where the next one that can be chosen is the first
        lines.select_next()
        while not lines.is_selection_valid():
            lines.select_next()

    @keys.add("end", eager=True)
    def _to_last(_: KeyPressEvent) -> None:
        lines.pointed_at = len(lines.choices) - 1

    application.key_bindings = merge_key_bindings([*filter(None, [application.key_bindings]), keys])
    application.ttimeoutlen = _ESCAPE_S


def _wrapped(question: str, answer: str) -> str:
    """Return a question broken between words, with room for the answer that stands after it, if need be on a line of its own."""
    width = stdout_console().width - 2
    lines = textwrap.wrap(question, width, break_on_hyphens=False)
    return "\n".join(lines if len(lines[-1]) + len(answer) < width else [*lines, ""])


def _replace_when_typed(asked: questionary.Question, default: str) -> None:
    """Let the first key that is typed or pasted take the place of the text that stands there; arrow keys and Backspace change it."""
    from prompt_toolkit.filters import Condition
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent, merge_key_bindings
    from prompt_toolkit.keys import Keys

    application, keys = asked.application, KeyBindings()

    @Condition
    def is_untouched() -> bool:
        buffer = application.current_buffer
        return buffer.text == default and buffer.cursor_position == len(default)

    @keys.add(Keys.Any, filter=is_untouched)
    @keys.add(Keys.BracketedPaste, filter=is_untouched)
    def _replace(event: KeyPressEvent) -> None:
        if event.data.isprintable():
            event.current_buffer.text = ""
            event.current_buffer.insert_text(event.data)

    application.key_bindings = merge_key_bindings([*filter(None, [application.key_bindings]), keys])


def _choice(line: Line, place: int, widest: int) -> questionary.Choice:
    import questionary

    room = stdout_console().width - _FRAME - (len(line.obstacle) + 5 if line.obstacle else 0)
    title = f"{line.name:{widest}}  {line.about}".rstrip()
    if len(title) > room:
        title = f"{title[: room - 3].rpartition(' ')[0]} ..."
    return questionary.Choice(title, value=place, disabled=line.obstacle)


def _n_choices(choices: Sequence[Any]) -> int:
    import questionary

    return sum(not isinstance(choice, questionary.Separator) for choice in choices)


def _style() -> questionary.Style:
    """Return the styles, which say nothing that is not said without them: NO_COLOR leaves the pointer."""
    import questionary

    return questionary.Style(
        [
            ("qmark", ""),
            ("question", "bold"),
            ("answer", ""),
            ("pointer", "fg:ansicyan bold"),
            ("highlighted", "fg:ansicyan bold"),
            ("separator", "bold"),
            ("instruction", "fg:ansibrightblack"),
            ("disabled", "fg:ansibrightblack"),
        ]
    )

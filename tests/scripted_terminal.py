"""A terminal that a test types into: a process behind a pseudo-terminal, and the screen as somebody would see it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import pyte

DOWN, UP, ENTER, CTRL_C, CTRL_D = "\x1b[B", "\x1b[A", "\r", "\x03", "\x04"
HOME, END, ESCAPE = "\x1b[H", "\x1b[F", "\x1b"


def _hear_interrupts() -> None:
    """Make Ctrl-C the process's signal, also where the tests themselves run in the background of a script, which ignores it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)


class ScriptedTerminal:
    """`cutaway` with some arguments on a terminal of 80 x 24 characters with a long memory; to be used in a `with`."""

    def __init__(self, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None, rows: int = 24) -> None:
        self.screen = pyte.HistoryScreen(80, rows, history=2000)
        self.written = b""
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, 80, 0, 0))
        removed = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CUTAWAY_TRACEBACK"}
        kept = {name: value for name, value in os.environ.items() if name not in removed}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cutaway", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=folder,
            env={**kept, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **(environment or {})},
            start_new_session=True,
            preexec_fn=_hear_interrupts,
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self._master)

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def wait_for(self, text: str, *, within_s: float = 60) -> None:
        """Wait until a text stands on the screen."""
        self._wait(lambda: text in self.visible(), f"{text!r} to appear", within_s)

    def choose(self, name: str) -> None:
        """Go down to the line that begins with a name, key by key, as somebody would, and take it."""
        for _ in range(40):
            self._wait(lambda: self._pointed() is not None, "a line to be pointed at", 20)
            before = self._pointed()
            if before == name or str(before).startswith(f"{name} "):
                self.type(ENTER)
                self._wait_for_change(before)
                return
            self.type(DOWN)
            self._wait_for_change(before)
        raise AssertionError(f"there is no line {name!r}:\n{self.visible()}")

    def wait_for_end(self, *, within_s: float = 60) -> int:
        """Wait until the process has ended and return its exit code."""
        self._wait(lambda: self.process.poll() is not None, "the end", within_s)
        return self.process.wait()

    def visible(self) -> str:
        """Return the lines on the screen."""
        return "\n".join(line.rstrip() for line in self.screen.display)

    def everything(self) -> str:
        """Return all lines, those that have gone out at the top too."""
        gone = ["".join(line[column].data for column in range(80)).rstrip() for line in self.screen.history.top]
        return "\n".join([*gone, self.visible()])

    def _pointed(self) -> str | None:
        return next((line[3:].strip() for line in self.visible().splitlines() if line.startswith((" » ", " > "))), None)

    def _wait_for_change(self, before: str | None) -> None:
        self._wait(lambda: self._pointed() != before, f"something else than {before!r} to be pointed at", 20)

    def _wait(self, is_so: Callable[[], bool], what: str, within_s: float) -> None:
        deadline = time.monotonic() + within_s
        while not is_so():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {within_s} s for {what}; on the screen is\n{self.visible()}")
            if select.select([self._master], [], [], 0.05)[0]:
                self._read()

    def _read(self) -> None:
        try:
            content = os.read(self._master, 65_536)
        except OSError:  # Linux says so where the other end is closed
            time.sleep(0.02)
            return
        self.written += content
        if b"\x1b[6n" in content:  # where is the cursor? A real terminal answers
            self.type(f"\x1b[{self.screen.cursor.y + 1};{self.screen.cursor.x + 1}R")
        self._stream.feed(content)

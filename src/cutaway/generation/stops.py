"""Text as it comes: whole characters, and nothing that may yet turn out to be a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from cutaway.tokenizers import StreamDecoder, Tokenizer

__all__ = ["TextStream"]


class TextStream:
    """Turns one row's tokens into text that is final: `push` returns what can be shown, `is_done` says that a stop string came."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        stop = (stop,) if isinstance(stop, str) else tuple(stop)
        if not all(stop):
            raise ValueError("a stop string is empty; give at least one character")
        self._characters = StreamDecoder(tokenizer)
        self._stop = stop
        self._held = ""
        self.is_done = False

    def push(self, token: int) -> str:
        """Take one token and return the text that is now certain."""
        return self._release(self._characters.push(token))

    def flush(self) -> str:
        """Return what was held back, as no more tokens come."""
        text = self._release(self._characters.flush())
        held, self._held = ("" if self.is_done else self._held), ""
        return text + held

    def _release(self, new: str) -> str:
        if self.is_done:
            return ""
        text = self._held + new
        found = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if found:
            _, start = min(found)  # the one complete first, so that it makes no difference how tokens cut the text
            self.is_done, self._held = True, ""
            return text[:start]
        n_held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of `text` may be the beginning of `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)

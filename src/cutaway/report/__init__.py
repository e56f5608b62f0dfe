"""Results made visible in a terminal: tables in one house style, human numbers, a curve of characters."""

from cutaway.report.curve import Curve, draw_curves
from cutaway.report.fetching import fetch_progress
from cutaway.report.numbers import format_bytes, format_count, format_duration, format_share
from cutaway.report.terminal import (
    fields_table,
    is_unicode,
    print_json,
    print_sentence,
    stderr_console,
    stdout_console,
    table,
)

__all__ = [
    "stdout_console",
    "stderr_console",
    "is_unicode",
    "print_sentence",
    "table",
    "fields_table",
    "print_json",
    "format_bytes",
    "format_count",
    "format_duration",
    "format_share",
    "fetch_progress",
    "Curve",
    "draw_curves",
]

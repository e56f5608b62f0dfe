"""Results made visible: tables, curves and coloured grids in a terminal, and one page of HTML."""

from cutaway.report.curve import Curve, draw_curves
from cutaway.report.fetching import fetch_progress
from cutaway.report.grid import attention_map, grid
from cutaway.report.html import HtmlReport
from cutaway.report.markup import Context, context_list, link, links_line, ranked_tokens
from cutaway.report.numbers import (
    format_bytes,
    format_count,
    format_duration,
    format_fixed,
    format_flops,
    format_number,
    format_share,
    format_signed,
    parse_bytes,
    parse_count,
)
from cutaway.report.terminal import (
    fields_table,
    filled_table,
    is_unicode,
    print_json,
    print_sentence,
    stderr_console,
    stdout_console,
    table,
)
from cutaway.report.tokens import token_label, token_table

__all__ = [
    "stdout_console",
    "stderr_console",
    "filled_table",
    "is_unicode",
    "print_sentence",
    "table",
    "fields_table",
    "print_json",
    "format_bytes",
    "format_count",
    "format_flops",
    "format_duration",
    "format_share",
    "format_fixed",
    "format_number",
    "format_signed",
    "parse_bytes",
    "parse_count",
    "fetch_progress",
    "Curve",
    "draw_curves",
    "grid",
    "attention_map",
    "token_label",
    "token_table",
    "HtmlReport",
    "Context",
    "context_list",
    "ranked_tokens",
    "link",
    "links_line",
]

"""Pieces of a page that are more than text: tokens on a ground that says how strongly something is there, ranked tokens, links."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutaway.report.numbers import format_fixed
from cutaway.report.tokens import token_label

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["Context", "context_list", "ranked_tokens", "link", "links_line"]

# The ground is an orange that lies over the page's own paper, so that it does in light and in dark; the ink stays the page's.
_CONTEXTS = """
<style>
.contexts { list-style: none; margin: 0 0 1.5rem; padding: 0; }
.contexts li { display: flex; gap: .9rem; padding: .4rem 0; border-top: 1px solid var(--faint); }
.contexts .value { flex: 0 0 3.6rem; text-align: right; color: var(--muted); font-variant-numeric: tabular-nums; font-size: .875rem; }
.contexts .text { font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: .85rem;
  line-height: 1.75; white-space: pre-wrap; overflow-wrap: anywhere; min-width: 0; }
.contexts .text span { border-radius: .2rem; }
.contexts .text b { font-weight: inherit; border-bottom: 2px solid #D55E00; }
.contexts .sign { color: var(--muted); }
</style>
<ol class="contexts">
{% for context in contexts %}
<li><span class="value">{{ context.value }}</span><span class="text">{{ "…" if context.is_cut_before }}
{%- for token in context.tokens %}
{%- if token.alpha %}<span title="{{ token.value }}" style="background: rgba(230, 119, 0, {{ token.alpha }})">{% endif -%}
{%- if token.is_peak %}<b>{% endif %}{{ token.text }}{% if token.is_peak %}</b>{% endif -%}
{%- if token.alpha %}</span>{% endif -%}
{%- endfor %}{{ "…" if context.is_cut_after }}</span></li>
{% endfor %}
</ol>
"""

_RANKED = """
<style>
.ranked { display: flex; flex-wrap: wrap; gap: 0 3.5rem; margin: 0 0 1.5rem; }
.ranked table { margin: 0; }
.ranked td.number { color: var(--muted); }
</style>
<div class="ranked">
{% for title, rows in tables.items() %}
<table><thead><tr><th scope="col">{{ title }}</th><th scope="col"></th></tr></thead><tbody>
{% for label, value in rows %}
<tr><td>{{ label }}</td><td class="number">{{ value }}</td></tr>
{% endfor %}
</tbody></table>
{% endfor %}
</div>
"""

_DEEPEST = 0.75  # of the ground at the greatest value: more would drown the ink


@dataclass(frozen=True)
class Context:
    """A piece of text as tokens, with a value at each, and which of them it is about."""

    tokens: Sequence[str]
    values: Sequence[float]
    peak: int
    is_cut_before: bool = False
    is_cut_after: bool = False


def context_list(contexts: Sequence[Context], *, digits: int = 2) -> Markup:
    """Return contexts one below the other, each with the value at its peak; the ground of a token grows with its value.

    All share one scale, that of the greatest value; what is not above zero has no ground. Line breaks are shown as signs. Raises
    ValueError when a context has not one value a token.
    """
    for context in contexts:
        if len(context.tokens) != len(context.values):
            raise ValueError(f"a context has {len(context.values)} values for {len(context.tokens)} tokens: give one for each")
    greatest = max((value for context in contexts for value in context.values), default=0.0)
    shown = [
        {
            "value": format_fixed(context.values[context.peak], digits),
            "is_cut_before": context.is_cut_before,
            "is_cut_after": context.is_cut_after,
            "tokens": [
                {
                    "text": text.replace("\n", "⏎").replace("\t", "⇥"),
                    "value": format_fixed(value, digits),
                    "alpha": f"{_DEEPEST * value / greatest:.2f}" if value > 0 else "",
                    "is_peak": place == context.peak,
                }
                for place, (text, value) in enumerate(zip(context.tokens, context.values, strict=True))
            ],
        }
        for context in contexts
    ]
    return _rendered(_CONTEXTS, contexts=shown)


def ranked_tokens(tables: dict[str, Sequence[tuple[str, float]]], *, digits: int = 2) -> Markup:
    """Return small tables of tokens and numbers side by side, by their titles."""
    rows = {
        title: [(token_label(text), f"{'+' if value > 0 else ''}{format_fixed(value, digits)}") for text, value in pairs]
        for title, pairs in tables.items()
    }
    return _rendered(_RANKED, tables=rows)


def link(text: str, href: str) -> Markup:
    """Return a link to a page beside this one."""
    return _rendered('<a href="{{ href }}">{{ text }}</a>', text=text, href=href)


def links_line(links: dict[str, str]) -> Markup:
    """Return links in one line, by their texts."""
    source = (
        '<p>{% for text, href in links.items() %}<a href="{{ href }}">{{ text }}</a>{{ " · " if not loop.last }}{% endfor %}</p>'
    )
    return _rendered(source, links=links)


def _rendered(source: str, **values: object) -> Markup:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return Markup(environment.from_string(source).render(**values))  # autoescape has escaped the values

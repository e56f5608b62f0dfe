"""Pieces of a page that are more than text."""

import pytest

from cutaway.report import Context, HtmlReport, context_list, link, links_line, ranked_tokens


def test_the_ground_grows_with_the_value_and_the_peak_is_marked():
    markup = context_list([Context(["a", "\n", "<b>"], [0.0, 1.0, 4.0], 2, is_cut_before=True)])
    assert "rgba(230, 119, 0, 0.75)" in markup
    assert "rgba(230, 119, 0, 0.19)" in markup
    assert markup.count("rgba") == 2
    assert "<b>&lt;b&gt;</b>" in markup
    assert "…a" in markup
    assert "⏎" in markup
    assert "4.00" in markup


def test_contexts_without_a_value_above_zero_have_no_ground():
    assert "rgba" not in context_list([Context(["a"], [0.0], 0)])
    assert "<li>" not in context_list([])


def test_each_token_has_a_value():
    with pytest.raises(ValueError, match="a context has 1 values for 2 tokens"):
        context_list([Context(["a", "b"], [0.0], 0)])


def test_tokens_are_ranked_side_by_side():
    markup = ranked_tokens({"raised": [(" the", 1.5)], "lowered": [("<", -2.0)]})
    assert "·the" in markup
    assert "+1.50" in markup
    assert "&lt;" in markup
    assert "-2.00" in markup


def test_a_page_takes_markup_and_escapes_all_else():
    page = HtmlReport("Page")
    page.add("Section", body=links_line({"<up>": "index.html"}), table=(("a", "b"), [(link("<1>", "one.html"), "<i>")]))
    html = page.html()
    assert '<a href="index.html">&lt;up&gt;</a>' in html
    assert '<a href="one.html">&lt;1&gt;</a>' in html
    assert "&lt;i&gt;" in html

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from cutaway.plots import attention, bars, heatmap, lines
from cutaway.report import HtmlReport
from cutaway.report.colours import INK, MUTED

HOSTILE = "<script>alert(\"1\")</script> & 'x'"


class Page(HTMLParser):
    """Every element of a page with its attributes, and the text between them."""

    def __init__(self, html):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in {"meta", "link", "br", "img"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip() and "style" not in self.open:
            self.text.append(data.strip())

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def map_of(title="Title"):
    return heatmap(np.arange(6.0).reshape(2, 3), rows=["a", HOSTILE], columns=["x", 'id="y"', "\n"], title=title, label="value")


def page_of(report):
    page = Page(report.html())
    assert not page.open
    return page


def test_two_equal_figures_share_no_id_and_every_reference_is_found():
    report = HtmlReport("Two")
    report.add("One", figure=map_of())
    report.add("Other", figure=map_of())
    page = page_of(report)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    values = [value for _, attributes in page.elements for value in attributes.values() if value]
    references = {name for value in values for name in re.findall(r"url\(#([^)]+)\)|^#(.+)$", value) for name in name if name}
    assert len(references) >= 4
    assert references <= set(ids)


def test_nothing_comes_from_elsewhere():
    report = HtmlReport("Alone")
    report.add("Figures", figure=attention(np.eye(3)[None], tokens=["a", "b", "c"], titles=["head 0"], title="T"))
    html, page = report.html(), page_of(report)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    assert "@import" not in html
    addresses = [
        value for _, attributes in page.elements for name, value in attributes.items() if name.split(":")[-1] in {"href", "src"}
    ]
    assert all(address.startswith(("#", "data:image/png;base64,")) for address in addresses)
    assert any(address.startswith("data:") for address in addresses)
    assert set(re.findall(r"https?://[^\"\s]+", html)) == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_everything_given_is_text():
    report = HtmlReport(HOSTILE, subtitle=HOSTILE)
    report.add(HOSTILE, text=f"{HOSTILE}\n\nsecond", figure=map_of(f"A {HOSTILE}"), table=([HOSTILE], [[HOSTILE]]))
    report.add("Other \x00 section")
    page = page_of(report)
    assert not page.all("script")
    assert page.text.count(HOSTILE) == 8  # title and heading twice, subtitle, paragraph, header, cell
    assert "second" in page.text
    assert "⏎" in page.text
    assert "\x00" not in report.html()


def test_figures_say_what_they_show_and_follow_the_theme():
    report = HtmlReport("Themes")
    report.add("Map", figure=map_of())
    report.add("Lines", figure=lines({"a": ([0, 1], [1, 2])}, title="L", x_label="step", y_label="loss"))
    page = page_of(report)
    first, second = page.all("svg")
    assert first["role"] == second["role"] == "img"
    assert first["aria-label"] == "Title: 2 rows by 3 columns of value, colours from 0 to 5"
    assert second["aria-label"] == "L: loss over step as 1 lines: a"
    styles = " ".join(attributes.get("style") or "" for tag, attributes in page.elements if tag in {"text", "path"})
    assert "var(--ink)" in styles
    assert "var(--muted)" in styles
    assert INK not in styles
    assert MUTED not in styles
    assert not [attributes for tag, attributes in page.elements if tag == "style" and attributes]
    assert len(page.all("style")) == 1
    assert "prefers-color-scheme: dark" in report.html()


def test_contents_list_the_sections_that_have_a_heading():
    report = HtmlReport("Long")
    report.add("First")
    assert not page_of(report).all("nav")
    report.add("", text="goes on")
    report.add("Second")
    page = page_of(report)
    targets = [attributes["href"] for attributes in page.all("a")]
    anchors = [attributes["id"] for attributes in page.all("section")]
    assert targets == [f"#{anchors[0]}", f"#{anchors[2]}"]


def test_numbers_align_right_and_long_tables_are_folded():
    report = HtmlReport("Tables")
    report.add("Short", table=(["token", "p", "rank"], [[" the", "-0.5", 1], ["1st", "1e-05", 12]]))
    cells = [attributes.get("class") for attributes in page_of(report).all("td")]
    assert cells == [None, "number", "number"] * 2
    report.add("Long", table=(["n"], [[number] for number in range(26)]))
    page = page_of(report)
    assert len(page.all("details")) == 1
    assert "Table of 26 rows" in page.text
    with pytest.raises(ValueError, match="has 1 cells: expected 2, one for each of a, b"):
        report.add("Wrong", table=(["a", "b"], [["x"]]))


def test_a_page_is_written_whole_and_alike(tmp_path):
    def write(name):
        report = HtmlReport("Same", subtitle="again")
        report.add("Bars", figure=bars([1.0, -2.0], labels=["a", "b"], title="B"))
        return report.write(tmp_path / name)

    first, second = write("deep/1.html"), write("2.html")
    assert first == tmp_path / "deep" / "1.html"
    assert first.read_bytes() == second.read_bytes()
    assert first.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(ValueError, match=r"give one that ends in \.html"):
        write("page.pdf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.html", "deep"]


def test_no_line_ends_between_a_number_and_its_per_cent():
    report = HtmlReport("Shares", subtitle='cutaway generate "12 % of"')
    report.add("Found", text="That is 12 % of them, and 0.5 % of these.\n\nA % alone stays.", table=(["share"], [["12 %"]]))
    page = page_of(report)
    assert "That is 12\N{NO-BREAK SPACE}% of them, and 0.5\N{NO-BREAK SPACE}% of these." in page.text
    assert "A % alone stays." in page.text
    assert page.text.count("12 %") == 1  # a cell, which is never broken
    assert 'cutaway generate "12 % of"' in page.text  # a command is to be copied

"""The diagrams of docs/diagrams are drawn from their sources as they are, and can be read, seen and drawn again."""

import re
import shutil
import sys
from functools import cache
from pathlib import Path
from xml.etree import ElementTree

import pytest

from cutaway.report import colours
from tikz_sources import FOLDER, NAMES, render, source

SVG = "{http://www.w3.org/2000/svg}"
MAX_BYTES = 150_000


# --- the files


def test_there_are_seven_diagrams() -> None:
    assert NAMES == [
        "architecture", "attention", "causal_cone", "forward_pass", "induction_circuit", "kv_cache", "residual_stream",
    ]  # fmt: skip


def test_every_drawing_has_a_source() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.svg")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_is_of_its_source_as_it_is(name: str) -> None:
    svg = source(name).with_suffix(".svg")
    assert render.recorded_sha256(svg) == render.source_sha256(source(name)), f"{name}.tex or style.tex has changed: make diagrams"


def test_a_changed_source_or_style_has_another_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, style = tmp_path / "attention.tex", tmp_path / "style.tex"
    shutil.copy(source("attention"), copy)
    shutil.copy(FOLDER / "style.tex", style)
    monkeypatch.setattr(render, "STYLE", style)
    first = render.source_sha256(copy)
    assert first == render.recorded_sha256(FOLDER / "attention.svg")
    copy.write_text(copy.read_text(encoding="utf-8") + "%\n", encoding="utf-8")
    second = render.source_sha256(copy)
    style.write_text(style.read_text(encoding="utf-8") + "%\n", encoding="utf-8")
    assert len({first, second, render.source_sha256(copy)}) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_stands_alone_and_can_be_read_aloud(name: str) -> None:
    svg = source(name).with_suffix(".svg")
    root = ElementTree.parse(svg).getroot()
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    links = [value for element in root.iter() for key, value in element.attrib.items() if key.endswith("href")]
    assert root.tag == f"{SVG}svg"
    assert root.attrib["role"] == "img"
    assert [root.findtext(f"{SVG}{tag}") for tag in ("title", "desc")] == [
        " ".join(render.comments(source(name), key)) for key in ("title", "desc")
    ]
    assert len(root.findtext(f"{SVG}desc", "")) > 200
    assert root.attrib["aria-labelledby"].split() == ids[:2]
    assert len(ids) == len(set(ids))
    assert all(each.startswith(f"{name.replace('_', '-')}-") for each in ids)  # two on one page do not meet
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)
    kinds = {element.tag.removeprefix(SVG) for element in root.iter()}
    assert kinds <= {"svg", "title", "desc", "defs", "path", "use", "g", "rect", "clipPath"}, (
        "no letters as text, scripts or images"
    )
    text = svg.read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import|<\?xml-stylesheet|<!DOCTYPE", text)
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert svg.stat().st_size < MAX_BYTES


@pytest.mark.parametrize("name", NAMES)
def test_every_diagram_is_as_wide_as_the_others(name: str) -> None:
    root = ElementTree.parse(source(name).with_suffix(".svg")).getroot()
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    assert (root.attrib["width"], width) == (str(render.WIDTH), pytest.approx(539, abs=0.1))
    assert float(root.attrib["height"]) == pytest.approx(render.WIDTH * height / width, abs=1)


def test_colours_are_the_packages() -> None:
    defined = dict(re.findall(r"\\definecolor\{(\w+)\}\{HTML\}\{(\w+)\}", (FOLDER / "style.tex").read_text(encoding="utf-8")))
    shared = [*colours.PALETTE, colours.INK, colours.MUTED, colours.FAINT]
    assert [f"#{each}".upper() for each in defined.values()] == [each.upper() for each in shared]


@cache
def shades() -> dict[str, str]:
    """The colours that the style defines from others, as xcolor mixes them."""
    text = (FOLDER / "style.tex").read_text(encoding="utf-8")
    defined = {name: f"#{shade}" for name, shade in re.findall(r"\\definecolor\{(\w+)\}\{HTML\}\{(\w+)\}", text)}
    defined |= {"white": "#FFFFFF", "black": "#000000"}
    for name, mix in re.findall(r"\\colorlet\{([\w ]+)\}\{([\w!]+)\}", text):
        defined[name] = mixed(mix, defined)
    return defined


def mixed(mix: str, defined: dict[str, str]) -> str:
    first, *rest = mix.split("!")
    if not rest:
        return defined[first]
    share = float(rest[0]) / 100
    channels = ([int(defined[name][i : i + 2], 16) for i in (1, 3, 5)] for name in (first, rest[1]))
    return "#" + "".join(f"{round(share * a + (1 - share) * b):02X}" for a, b in zip(*channels, strict=True))


def contrast(one: str, other: str) -> float:
    """The ratio of WCAG 2.2."""

    def luminance(shade: str) -> float:
        channels = [int(shade[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in channels]
        return sum(weight * each for weight, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_text_stands_out() -> None:
    """Every text on the ground that it is written on, by WCAG's 4.5 to 1."""
    known = shades()
    grounds = {f"{name} text": [f"{name}!16!card"] for name in ("attention", "hook", "cache", "stream")}  # tags
    grounds["muted"] = [
        "card",
        *(f"{name}!4!card" for name in ("stream", "muted")),
        "attention!11!card",
    ]  # frames, and a box in kv_cache
    grounds["ink"] = [f"{name}!24!card" for name in ("attention", "mlp", "vocabulary", "cache", "stream")]
    grounds["ink"] += ["attention!65!card", "cache!70!card"]  # the deepest cell of attention, a slot just written
    for text, on in grounds.items():
        for ground in on:
            assert contrast(known[text], mixed(ground, known)) >= 4.5, f"{text} on {ground}"
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21)
    assert contrast("#767676", "#FFFFFF") == pytest.approx(4.54, abs=0.01)


def test_text_is_large_enough() -> None:
    """At 760 pixels, 541 points of TeX wide, nothing is below 9 pixels."""
    texts = [path.read_text(encoding="utf-8") for path in FOLDER.glob("*.tex")]
    sizes = [float(size) for text in texts for size in re.findall(r"\\fontsize\{([\d.]+)\}", text)]
    sizes += [
        float(size)
        for text in texts
        for line in re.findall(r"\\DeclareMathSizes(.*)", text)
        for size in re.findall(r"[\d.]+", line)
    ]
    assert len(sizes) > 20
    assert min(sizes) * render.WIDTH / 541 >= 9
    assert not re.search(r"\\(tiny|scriptsize|footnotesize|small)\b", "".join(texts))


# --- the script


def test_without_tex_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: None if program == "dvisvgm" else f"/usr/bin/{program}")
    monkeypatch.setattr(sys, "argv", ["render.py"])
    assert render.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("dvisvgm not found")
    assert "apt-get install" in said
    assert said.count("\n") == 1


def test_a_diagram_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["render.py", "cathedral"])
    with pytest.raises(SystemExit):
        render.main()
    assert "there is no diagram cathedral; there are architecture, attention" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_drawing_again_gives_the_same_bytes(name: str) -> None:
    missing = [program for program in render.PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed")
    svg = source(name).with_suffix(".svg")
    drawn = render.draw(source(name))
    assert f'data-source-sha256="{render.recorded_sha256(svg)}"' in drawn
    if render.recorded_programs(svg) != render.programs():
        pytest.skip(f"drawn with {render.recorded_programs(svg)}, here {render.programs()}: hashes agree, bytes are not compared")
    assert drawn == svg.read_text(encoding="utf-8")

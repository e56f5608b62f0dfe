"""The documentation site: its parts alone, and as a whole without a network and in a browser."""

import base64
import doctest
import importlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from benchmarks.gallery import figures_of, standing_alone
from course.source import read, readers_copy
from docs.site import gallery
from docs.site.docstrings import first_sentence, to_markdown
from docs.site.lessons import LessonError, is_shown_alone, notebook_of
from docs.site.library import Library
from docs.site.markdown import MissingTextError, adapt, title_of
from docs.site.places import DeadLinkError, Places, find_places, shown_page
from docs.site.reference import Reference, read_floors

ROOT = Path(__file__).parents[2]

# Put before all modules of a process and of those that it starts: what is not of this machine cannot be reached.
GUARD = """
import socket

def _local(address):
    return not isinstance(address, tuple) or address[0] in ("127.0.0.1", "::1", "localhost", "", "0.0.0.0")

def _guarded(name):
    call = getattr(socket.socket, name)
    def guarded(self, address, *rest):
        if not _local(address):
            raise OSError(f"the site asks the network for {address}")
        return call(self, address, *rest)
    setattr(socket.socket, name, guarded)

for _name in ("connect", "connect_ex"):
    _guarded(_name)
_look_up = socket.getaddrinfo

def _getaddrinfo(host, *rest, **named):
    if host not in ("127.0.0.1", "::1", "localhost", "", None, b"localhost"):
        raise OSError(f"the site asks the network for {host}")
    return _look_up(host, *rest, **named)

socket.getaddrinfo = _getaddrinfo
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with two guides, a lesson, a module and a picture."""
    files = {
        "README.md": "# Read me\n",
        "docs/theory.md": "# Theory\n",
        "docs/glossary.md": "# Glossary\n\n## Head\n",
        "docs/images/curve.svg": "<svg/>",
        "course/01_tokens.py": "# %% [markdown]\n# # Tokens\n",
        "src/cutaway/model/attention.py": '"""Attention."""\n',
        "examples/slurm/job.sh": "echo\n",
    }
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


@pytest.fixture
def places(root: Path) -> Places:
    return find_places(root)


@pytest.mark.parametrize(
    ("link", "becomes"),
    [
        ("[a](glossary.md)", "[a](/guides/glossary.md)"),
        ("[a](glossary.md#head)", "[a](/guides/glossary.md#head)"),
        ("[a](../README.md)", "[a](/project/readme.md)"),
        ("[a](../course/01_tokens.py)", "[a](/course/01_tokens.ipynb)"),
        ("[the `a`\nb](../src/cutaway/model/attention.py#L3)", "[the `a`\nb](shown:src/cutaway/model/attention.py#L3)"),
        ("[a](../examples/slurm)", "[a](shown:examples/slurm)"),
        ("[a](#here)", "[a](#here)"),
        ("(Olah, arXiv 2209.10652)", "(Olah, [arXiv 2209.10652](https://arxiv.org/abs/2209.10652))"),
        ("`arXiv 2209.10652`", "`arXiv 2209.10652`"),
        ("[a](https://example.com/x)", "[a](https://example.com/x)"),
        ("![a curve](images/curve.svg)", "![a curve](/pictures/docs/images/curve.svg)"),
        ("[![a curve](images/curve.svg)](glossary.md)", "[![a curve](/pictures/docs/images/curve.svg)](/guides/glossary.md)"),
        ("`[a](b.md)` and $f[x](y)$", "`[a](b.md)` and $f[x](y)$"),
        ("```sh\n[a](b.md)\n```", "```sh\n[a](b.md)\n```"),
        ("```python\n>>> 1\n1\n```", "```pycon\n>>> 1\n1\n```"),
        ("```python\nx = 1\n```", "```python\nx = 1\n```"),
    ],
)
def test_links_lead_to_pages_of_the_site(places: Places, link: str, becomes: str) -> None:
    assert adapt(link, "docs/theory.md", places) == becomes


@pytest.mark.parametrize("link", ["[a](none.md)", "[a](../../out.md)", "![a](images/none.svg)", "text [a\nb](none.py#L1) text"])
def test_a_link_that_points_to_nothing_is_refused(places: Places, link: str) -> None:
    with pytest.raises(DeadLinkError, match=r"docs/theory\.md: there is no "):
        adapt(link, "docs/theory.md", places)


def test_a_picture_of_another_host_is_refused(places: Places) -> None:
    with pytest.raises(DeadLinkError, match="asks nothing of other hosts"):
        adapt("![a](https://example.com/a.svg)", "docs/theory.md", places)


def test_a_picture_without_a_text_is_refused(places: Places) -> None:
    with pytest.raises(MissingTextError, match=r"images/curve\.svg has no text"):
        adapt("![](images/curve.svg)", "docs/theory.md", places)


def test_what_a_page_shows_is_taken_along(places: Places) -> None:
    adapt("[a](../examples/slurm/job.sh) ![c](images/curve.svg)", "docs/theory.md", places)
    assert places.shown == {"examples/slurm/job.sh"}
    assert places.pictures == {"docs/images/curve.svg"}
    assert shown_page("examples/slurm/job.sh") == "files/examples/slurm/job.sh"
    assert shown_page("src/cutaway/model/attention.py") == "source/cutaway/model/attention"


def test_a_title_is_no_comment_of_code() -> None:
    assert title_of("```sh\n# not this\n```\n\n# This\n", "none") == "This"


LESSON = """\
# %% [markdown]
# # Tokens
#
# What is [a token](../src/cutaway/model/attention.py)?

# %%
show(thing)
say("It is 1.")

# %% tags=["prediction"]
1 + 1

# %% tags=["starter"]
x = ...

# %% [markdown] tags=["hint"]
# Think.

# %% [markdown] tags=["hint"]
# It is 1.

# %% tags=["solution"]
x = 1

# %% tags=["check"]
assert x == 1
"""


def test_a_lesson_is_folded(root: Path, places: Places) -> None:
    path = root / "course" / "01_tokens.py"
    path.write_text(LESSON)
    first, shown, prediction, starter, hint, second, solution, check = notebook_of(path, "course/01_tokens.py", places).cells
    assert first.source.startswith("# Tokens\n\n:::{container} offer\n")
    assert "[a token](shown:src/cutaway/model/attention.py)" in first.source
    taken = re.search(r'download="01_tokens.ipynb" href="data:application/x-ipynb\+json;base64,([^"]+)"', first.source)
    assert taken is not None
    assert nbformat.reads(base64.b64decode(taken[1]).decode(), as_version=4) == readers_copy(read(path), folder=None)
    assert shown.metadata["tags"] == ["remove-input"]
    assert prediction.metadata["tags"] == ["prediction", "hide-cell"]
    assert starter.metadata["tags"] == ["starter"]
    assert re.match(r":{7}\{fold\} Hint 1\n:kind: hint\n\nThink\.\n:{7}$", hint.source)
    assert "{fold} Hint 2\n" in second.source
    assert solution.metadata["tags"] == ["solution", "hide-cell"]
    assert solution.metadata["mystnb"]["code_prompt_show"] == "Solution"
    assert check.metadata["tags"] == ["check"]


def test_a_lesson_out_of_order_is_refused(root: Path, places: Places) -> None:
    path = root / "course" / "01_tokens.py"
    path.write_text(LESSON.replace('tags=["solution"]', 'tags=["starter"]'))
    with pytest.raises(LessonError, match=r"01_tokens\.py, line \d+: an exercise is"):
        notebook_of(path, "course/01_tokens.py", places)


@pytest.mark.parametrize(
    ("code", "alone"),
    [
        ("show(attend)", True),
        ('say(f"{x:.2f}")\nlesson.show(x)', True),
        ("x = 1\nshow(x)", False),
        ("figure(x, 'y')", False),
        ("", False),
    ],
)
def test_cells_that_only_speak_are_known(code: str, alone: bool) -> None:
    assert is_shown_alone(code) is alone


@pytest.mark.parametrize(
    ("docstring", "markdown"),
    [
        ("Return `a * b` of *args, [x]_ and $5.", r"Return `a * b` of \*args, \[x\]\_ and \$5."),
        ("One\n    and `two\n    three`.", "One and `two three`."),
        ("A.\n\n    >>> x = 1\n    >>> x\n    1\n\n    B.", "A.\n\n```pycon\n>>> x = 1\n>>> x\n1\n```\n\nB."),
        ("A:\n\n        mlp = x * y\n\n    B.", "A:\n\n```text\nmlp = x * y\n```\n\nB."),
        ("A:\n\n    - b_c\n      d\n    - e", "A:\n\n- b\\_c d\n- e"),
        ("KL(a || b)", r"KL(a \|\| b)"),
        ("1. is a number", r"1\. is a number"),
        ("| a | b |\n|---|---|\n| c*d | `e` |", "| a | b |\n|---|---|\n| c\\*d | `e` |"),
    ],
)
def test_nothing_in_a_docstring_is_markup_by_accident(docstring: str, markdown: str) -> None:
    assert to_markdown(docstring) == markdown


def test_a_first_sentence_does_not_end_at_a_decimal_point() -> None:
    assert first_sentence("Return 0.5 of `a.b` (Ba et al. 2016). And more.\n\nMore.") == "Return 0.5 of `a.b` (Ba et al. 2016)."


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(Library(ROOT / "src" / "cutaway"), read_floors((ROOT / "ARCHITECTURE.md").read_text()))


def test_every_public_name_is_described_once(reference: Reference) -> None:
    pages = {name: reference.page(name) for name in reference.public}
    described = [name for page in pages.values() for name in re.findall(r"^:{8}\{py:\w+\} (\w+)", page, re.MULTILINE)]
    assert sorted(described) == sorted(name for _, name in reference.homes)
    import cutaway

    for name in cutaway.__all__:
        assert f"`{name}" in pages["cutaway"], f"the page of cutaway lacks {name}"
    assert ":::" in pages["cutaway.model"]


@pytest.mark.parametrize("module", ["cutaway", "cutaway.model", "cutaway.plots", "cutaway.interp.patching"])
def test_names_that_are_read_are_those_that_are_offered(reference: Reference, module: str) -> None:
    assert [*reference.library.modules[module].names] == importlib.import_module(module).__all__


@pytest.mark.parametrize(
    ("name", "described"),
    [
        ("cutaway.load", "cutaway.language_model.load"),
        ("cutaway.ablation", "cutaway.interp.ablation"),
        ("cutaway.ablation.ablate", "cutaway.interp.ablation.ablate"),  # a function called like the module that it is in
        ("cutaway.model.attention.attend", "cutaway.model.attend"),
    ],
)
def test_other_names_lead_to_the_one_that_is_described(reference: Reference, name: str, described: str) -> None:
    assert reference.elsewhere[name] == described
    assert described in reference.sources() or described in reference.public


def test_every_row_of_an_overview_has_two_cells(reference: Reference) -> None:
    rows = [
        row for name in reference.public for row in re.findall(r"^\| (?:\{py:obj\}|\[?`).*$", reference.page(name), re.MULTILINE)
    ]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {3}
    assert any("\\|" in row for row in rows)


def test_signatures_keep_their_shapes(reference: Reference) -> None:
    page = reference.page("cutaway.model")
    assert "{py:function} attend(q: Float[Tensor, '*heads q_pos d_head']" in page
    assert "-> Float[Tensor, '*heads q_pos d_head']" in page
    assert reference.scopes["src/cutaway/model/attention.py"]["Hooks"] == "cutaway.hooks.Hooks"


def test_every_part_has_a_floor_that_the_architecture_tells_of(reference: Reference) -> None:
    assert {name for _, names in reference.by_floor() for name in names} == {*reference.public} - {"cutaway"}


def test_markup_is_mended_for_screen_readers() -> None:
    pytest.importorskip("myst_nb", reason="make docs installs what the site is built with")
    from docs.site.extension import mended

    assert (
        mended('<tr><th class="head"><p></p></th><th class="head"><p>a</p></th></tr>')
        == '<tr><td></td><th class="head"><p>a</p></th></tr>'
    )
    signature = '<dl class="py"><dt class="sig x">f(<dl>\n<dd>a</dd></dl>)</dt><dd><dl><dt>b</dt><dd>c</dd></dl></dd></dl>'
    parts = '<span class="sig-params">\n<span class="sig-param-line">a</span></span>'
    assert mended(signature) == f'<dl class="py"><dt class="sig x">f({parts})</dt><dd><dl><dt>b</dt><dd>c</dd></dl></dd></dl>'


REPORT = """<style>:root { --ink: #1a1a1a; } @media (prefers-color-scheme: dark) { :root { --ink: #eceef0; } }</style>
<section id="section-1"><p>Claim.</p></section>
<section id="section-2"><h2>A &amp; B</h2>
<p>What to see.</p>
<figure><svg xmlns="http://www.w3.org/2000/svg" aria-label="a &quot;curve&quot;">
<path d="M 1.23456 2.5" style="stroke: var(--ink); stroke-width: 0.123"/></svg>
</figure>
</section>"""


def test_figures_are_taken_from_a_report() -> None:
    ((name, caption, alternative, svg),) = figures_of(REPORT)
    assert (name, caption, alternative) == ("A & B", "What to see.", 'a "curve"')
    assert 'd="M 1.2 2.5" style="stroke: #1a1a1a; stroke-width: 0.12"' in svg
    assert "<style>text{" in svg
    with pytest.raises(KeyError):
        standing_alone('<svg style="fill: var(--none)">', {})


def test_the_gallery_shows_every_experiment_with_its_nulls() -> None:
    entries = gallery.read_gallery(ROOT / "docs" / "gallery")
    from cutaway import experiments

    assert [entry["id"] for entry in entries] == list(experiments.NAMES)
    for entry in entries:
        page = gallery.experiment_page(entry)
        assert page.count("\n| passed |") + page.count("\n| **failed** |") == len(entry["checks"])
        for figure in entry["figures"]:
            assert (ROOT / "docs" / "gallery" / figure["file"]).is_file()
            assert figure["alternative"].strip()
        assert (ROOT / entry["code"]).is_file()
    index = gallery.index_page(entries)
    assert "All 2 checks" not in index
    assert "->" not in index
    assert all(f"{entry['id']}.md" in index and entry["command"] in index for entry in entries)


def test_the_gallery_is_small() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "docs" / "gallery").iterdir()) < 3.3e6


def test_a_failed_check_is_said() -> None:
    entry = json.loads((ROOT / "docs" / "gallery" / "gallery.json").read_text())[0]
    entry |= {"passed": False}
    entry["checks"][0]["passed"][0] = False
    assert "| **failed** |" in gallery.experiment_page(entry)
    assert "1 of 2 checks passed" in gallery.experiment_page(entry)


def test_the_example_of_the_front_page_runs() -> None:
    text = (ROOT / "docs" / "site" / "front.md").read_text()
    example = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert example is not None
    test = doctest.DocTestParser().get_doctest(example[1], {}, "front.md", None, 0)
    assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0


@pytest.mark.slow
def test_the_site_builds_without_a_network_and_serves_all_its_readers(tmp_path: Path) -> None:
    for package in ("sphinx", "furo", "myst_nb", "playwright", "axe_playwright_python"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make test-all installs it")
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    paths = [str(tmp_path / "guard"), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "docs.site", "--out", str(tmp_path / "out")]
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    site = tmp_path / "out" / "html"
    sources = {path.relative_to(ROOT / "src").with_suffix(".html") for path in (ROOT / "src" / "cutaway").rglob("*.py")}
    assert not {path for path in sources if not (site / "source" / path).is_file()}, "modules without a page"
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("the site is built; there is no Chromium to open it in")
    from site_in_browser import faults_of_site

    faults = faults_of_site(site, chromium)
    assert not faults, "\n".join(faults)

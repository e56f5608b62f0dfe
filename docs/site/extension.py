"""What the site adds to Sphinx: folds, pages that show files, names that lead to the reference, and refusals."""

from __future__ import annotations

import html
import json
import math
import posixpath
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import directives
from myst_nb.sphinx_ import HideCodeCellNode
from pygments.lexers import get_lexer_for_filename
from pygments.util import ClassNotFound
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

from docs.site.places import SHOWN, DeadLinkError, Places, find_places, shown_page

__all__ = ["setup"]

_SIGNATURE = re.compile(r'<dt class="sig .*?</dt>', re.DOTALL)
_PICTURE = re.compile(r"<img\b[^>]*>", re.IGNORECASE)
_SIZE_OF_SVG = re.compile(r'<svg\b[^>]*?\bwidth="([\d.]+)(pt|)"')
_SIZE_OF_TEXT = re.compile(r"font-size: ([\d.]+)px")
_SMALLEST_TEXT = 11
"""Pixels that the smallest text of a picture is high."""
_PLACE = re.compile(r"(src/cutaway/[\w/]+\.py), line (\d+)")


class Fold(nodes.General, nodes.Element):
    """What is closed until it is asked for."""


class FoldDirective(SphinxDirective):
    """`fold` with a title, and a text."""

    has_content = True
    required_arguments = 1
    final_argument_whitespace = True
    option_spec = {"kind": directives.unchanged}  # noqa: RUF012  (the name and its kind are docutils')

    def run(self) -> list[nodes.Node]:
        """Return the fold with what was parsed of its text."""
        fold = Fold(title=self.arguments[0], kind=self.options.get("kind", ""))
        fold += self.parse_content_to_nodes()
        return [fold]


def _open_fold(translator: Any, node: nodes.Element) -> None:
    title = node["title"] if isinstance(node, Fold) else node["prompt_show"]
    kind = node.get("kind") or "cell"
    translator.body.append(f'<details class="fold fold-{html.escape(kind)}"><summary>{html.escape(title)}</summary>\n')


def _close_fold(translator: Any, node: nodes.Element) -> None:  # noqa: ARG001  (docutils calls it with the node)
    translator.body.append("</details>\n")


class ShownLinks(SphinxPostTransform):
    """Links to files that are shown lead to their pages, whatever page they stand on."""

    default_priority = 900
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:  # noqa: ARG002  (the name is Sphinx's)
        """Change the addresses of links."""
        for node in self.document.findall(nodes.reference):
            address = node.get("refuri", "")
            if address.startswith(SHOWN):
                path, _, anchor = address.removeprefix(SHOWN).partition("#")
                place = self.env.app.builder.get_relative_uri(self.env.docname, shown_page(path))
                node["refuri"] = place + (f"#{_line_anchor(anchor)}" if anchor else "")
                node["classes"] = [each for each in node["classes"] if each != "external"]
                node["internal"] = True


class LinksInOutputs(SphinxPostTransform):
    """Links that a lesson's code writes, from its place in the repository, lead to the pages of the site."""

    default_priority = 7  # after outputs were made nodes, before MyST looks for what links mean
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:  # noqa: ARG002  (the name is Sphinx's)
        """Change the links; what leads nowhere is left, for MyST to say so."""
        places = _places(self.env.config.site_root)
        path = next((path for path, page in places.pages.items() if page == self.env.docname), "")
        for node in [*self.document.findall(addnodes.pending_xref)]:
            if node["reftype"] != "myst" or not path.endswith(".py"):
                continue
            try:
                link = places.link(path, node["reftarget"])
            except DeadLinkError:
                continue
            if not link.startswith(SHOWN):
                page, _, anchor = link.removeprefix("/").partition("#")
                link = self.env.app.builder.get_relative_uri(self.env.docname, page.rpartition(".")[0]) + f"#{anchor}" * bool(
                    anchor
                )
            text = node.children[0].children if node.children else [nodes.Text(node["reftarget"])]
            node.replace_self(nodes.reference("", "", *text, refuri=link, internal=True))


@cache
def _places(root: str) -> Places:
    return find_places(Path(root))


class ShownCode(SphinxPostTransform):
    """Where `show` says from which file and line its code is, a link leads there."""

    default_priority = 850  # after outputs were made nodes
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:  # noqa: ARG002  (the name is Sphinx's)
        """Put links in the place of file and line."""
        for node in [*self.document.findall(nodes.Text)]:
            match = _PLACE.search(node.astext())
            if match and not _is_inside(node, nodes.literal_block, nodes.literal, nodes.reference):
                before, after = node.astext()[: match.start()], node.astext()[match.end() :]
                link = nodes.reference("", match[0], refuri=f"{SHOWN}{match[1]}#L{match[2]}")
                node.parent.replace(node, [nodes.Text(before), link, nodes.Text(after)])


class SizedPictures(SphinxPostTransform):
    """Pictures are as wide as their smallest labels need, but on cards and the front page, where styles say it."""

    default_priority = 8
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:  # noqa: ARG002  (the name is Sphinx's)
        """Say the width of each SVG that has one of its own."""
        for image in self.document.findall(nodes.image):
            path = Path(self.env.srcdir, image["uri"])
            svg = path.read_text("utf-8") if path.suffix == ".svg" and not _is_inside(image, nodes.container) else ""
            if size := _SIZE_OF_SVG.search(svg):
                drawn_as_curves = 8.5 if size[2] else 9.17  # figures, in points; diagrams, in pixels: docs/diagrams/style.tex
                smallest = min(map(float, _SIZE_OF_TEXT.findall(svg)), default=drawn_as_curves)
                image["width"] = f"{math.ceil(float(size[1]) / smallest * _SMALLEST_TEXT)}px"


class NamesInText(SphinxPostTransform):
    """A name of the library in a text leads to where it is described: `attend`, `cutaway.load`."""

    default_priority = 5
    formats = ("html",)

    def run(self, **kwargs: Any) -> None:  # noqa: ARG002  (the name is Sphinx's)
        """Put links around code that is a name."""
        names = self.env.config.site_names
        for node in [*self.document.findall(nodes.literal)]:
            text = node.astext().removesuffix("()")
            if "." in text or self.env.docname.startswith("reference/"):
                full = _described(names["aliases"], text)
                if full and not _is_inside(node, nodes.reference, nodes.title, addnodes.pending_xref):
                    reference = addnodes.pending_xref(
                        "", refdomain="py", reftype="obj", reftarget=full, refexplicit=True, refdoc=self.env.docname, refwarn=False
                    )
                    node.replace_self(reference)
                    reference += node


def _described(aliases: dict[str, str], name: str) -> str | None:
    """Return the full name under which a page describes a name, or a member of what has several names."""
    owner, _, member = name.rpartition(".")
    return aliases.get(name) or aliases.get(f"{aliases.get(owner)}.{member}")


class Signatures(SphinxPostTransform):
    """Names in signatures mean what they mean in their file, and texts stand in its quotes: `Float[Tensor, "batch pos"]`."""

    default_priority = 6  # before Sphinx looks for names by their endings

    def run(self, **kwargs: Any) -> None:  # noqa: ARG002  (the name is Sphinx's)
        """Lead each name to its full one, or nowhere where it is another package's; change the quotes."""
        names = self.env.config.site_names
        for signature in self.document.findall(addnodes.desc_signature):
            path, _ = names["sources"].get(f"{signature.get('module')}.{signature.get('fullname')}", ("", 0))
            for node in [*signature.findall(addnodes.pending_xref)]:
                full = names["scopes"].get(path, {}).get(node["reftarget"])
                if full is None:
                    node.replace_self(node.children)
                else:
                    node.attributes |= {"reftarget": full, "reftype": "obj", "refspecific": False}
            for node in signature.findall(addnodes.desc_sig_literal_string):
                if (text := node.astext()).startswith("'") and '"' not in text:
                    node.children = [nodes.Text(f'"{text[1:-1]}"')]


def _is_inside(node: nodes.Node, *kinds: type[nodes.Node]) -> bool:
    parent = node.parent
    while parent is not None:
        if isinstance(parent, kinds):
            return True
        parent = parent.parent
    return False


def _line_anchor(anchor: str) -> str:
    """Return the place of a line on a page that shows a file: links say L12, or L12-L20."""
    match = re.fullmatch(r"L(\d+)(?:-L?\d+)?", anchor)
    return f"L-{match[1]}" if match else anchor


def _spare_navigation(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:  # noqa: ARG001
    """Give the many pages that show files three links in place of the tree of all documents."""
    if doctree is None and page.startswith(("source/", "files/")):
        places = (("index", "Home"), ("source/index", "All modules"), ("reference/index", "Reference"))
        links = "".join(
            f'<li class="toctree-l1"><a class="reference internal" href="{app.builder.get_relative_uri(page, target)}">{title}</a></li>'
            for target, title in places
        )
        context["toctree"] = lambda **options: f"<ul>{links}</ul>"  # noqa: ARG005


def _mend_markup(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:  # noqa: ARG001
    """Mend what those who use a screen reader stumble over in the markup of Sphinx and the theme."""
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('role="heading"', 'role="heading" aria-level="2"')
    if "body" in context:
        context["body"] = mended(context["body"])


def mended(body: str) -> str:
    """Return markup without cells of a header that head nothing, and without lists that define nothing in signatures."""
    body = body.replace('<th class="head"><p></p></th>', "<td></td>")
    return _SIGNATURE.sub(lambda match: _without_list(match[0]), body)


def _without_list(signature: str) -> str:
    for tag, name in (("dl", "sig-params"), ("dd", "sig-param-line")):
        signature = signature.replace(f"<{tag}>", f'<span class="{name}">').replace(f"</{tag}>", "</span>")
    return signature


def _refuse_silent_pictures(app: Sphinx, doctree: nodes.document) -> None:
    """Raise ExtensionError for a picture without a text for those who cannot see it, of a document or a lesson's output."""
    where = app.env.docname
    for image in doctree.findall(nodes.image):
        if not image.get("alt", "").strip():
            raise ExtensionError(f"{where}: the picture {image.get('uri', '')} has no text for those who cannot see it")
    for raw in doctree.findall(nodes.raw):
        for picture in _PICTURE.findall(raw.astext()):
            if not re.search(r'\balt="[^"]*\S[^"]*"', picture):
                raise ExtensionError(
                    f"{where}: a picture has no text for those who cannot see it; `cutaway.lesson.figure` gives one"
                )


def _shown_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield a page for each module of the library and each file that a link asks to see."""
    root, names = Path(app.config.site_root), app.config.site_names
    described = {module: f"reference/{module}" for module in names["public"]}
    modules = [path.relative_to(root).as_posix() for path in (root / "src").rglob("*.py")]
    asked = json.loads((Path(app.srcdir) / "shown.json").read_text("utf-8"))
    for path in sorted({*modules, *asked, *_places(app.config.site_root).shown}):
        page = shown_page(path)
        body = _folder(app, root, path) if (root / path).is_dir() else _file(app, root / path, path, described)
        yield page, {"title": path, "body": f'<div class="shown-file">\n<h1>{html.escape(path)}</h1>\n{body}</div>'}, "page.html"


def _file(app: Sphinx, path: Path, name: str, described: dict[str, str]) -> str:
    text = path.read_text("utf-8")
    try:
        language = get_lexer_for_filename(path.name, text).aliases[0]
    except ClassNotFound:
        language = "text"
    shown = app.builder.highlighter.highlight_block(text, language, linenos="inline", opts={}, location=name, linespans="L")  # type: ignore[attr-defined]
    module = name.removeprefix("src/").removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    says = ""
    if name.startswith("src/"):
        says = f"<p>The module <code>{module}</code>"
        if module in described:
            says += f', <a href="{_relative(app, name, described[module])}">described in the reference</a>'
        says += f'. <a href="{_relative(app, name, "source/index")}">All modules</a></p>\n'
    return says + shown


def _folder(app: Sphinx, root: Path, name: str) -> str:
    files = sorted(path.relative_to(root).as_posix() for path in (root / name).rglob("*") if path.is_file() and _is_text(path))
    return "<p>The files of this folder.</p>\n" + "\n".join(
        f"<h2>{html.escape(path)}</h2>\n{_file(app, root / path, path, {})}" for path in files
    )


def _is_text(path: Path) -> bool:
    if "__pycache__" in path.parts:
        return False
    try:
        path.read_text("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _relative(app: Sphinx, name: str, page: str) -> str:
    return app.builder.get_relative_uri(shown_page(name), page)


def _load_names(app: Sphinx, config: Any) -> None:
    """Read what the assembly knows of names."""
    names = json.loads((Path(app.srcdir) / "names.json").read_text("utf-8"))
    full = {name: name for name in [*names["sources"], *names["public"]]}
    config.site_names = {**names, "aliases": {**names["short"], **names["elsewhere"], **full}}


def source_of(sources: dict[str, tuple[str, int]], domain: str, info: dict[str, str]) -> str | None:
    """Return the place where a described name stands in the source, from a page of the reference."""
    found = sources.get(f"{info['module']}.{info['fullname']}") if domain == "py" else None
    return None if found is None else f"{posixpath.join('..', shown_page(found[0]))}.html#L-{found[1]}"


def _say_which_lesson(app: Sphinx, docname: str, source: list[str]) -> None:  # noqa: ARG001  (Sphinx calls it with them)
    if re.match(r"course/\d", docname):
        print(f"{docname}: its code runs, unless it has run before", flush=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Add all of it to an application."""
    app.add_config_value("site_root", "", "env")
    app.add_config_value("site_names", {}, "")
    app.add_node(Fold, html=(_open_fold, _close_fold))
    app.add_node(HideCodeCellNode, override=True, html=(_open_fold, _close_fold))
    app.add_directive("fold", FoldDirective)
    for transform in (LinksInOutputs, ShownCode, ShownLinks, SizedPictures, NamesInText, Signatures):
        app.add_post_transform(transform)
    app.connect("config-inited", _load_names)
    app.connect("source-read", _say_which_lesson)
    app.connect("doctree-read", _refuse_silent_pictures)
    app.connect("html-collect-pages", _shown_pages)
    app.connect("html-page-context", _spare_navigation, priority=400)  # before the theme asks for the tree
    app.connect("html-page-context", _mend_markup, priority=600)  # after it has it
    return {"parallel_read_safe": True, "parallel_write_safe": False}

"""The settings of Sphinx for the site; docs/site/__main__.py hands over the folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

ROOT = Path(os.environ["CUTAWAY_SITE_ROOT"])
SOURCE = Path(os.environ["CUTAWAY_SITE_SOURCE"])
HERE = Path(__file__).parent
_NAMES = json.loads((SOURCE / "names.json").read_text("utf-8"))

project = "cutaway"
author = "The cutaway authors"
copyright = author
language = "en"

extensions = ["myst_nb", "sphinx.ext.mathjax", "sphinx.ext.linkcode", "sphinx_copybutton", "docs.site.extension"]
exclude_patterns = ["pictures"]
site_root = str(ROOT)
smartquotes = False
nitpicky = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
myst_dmath_allow_digits = False
myst_url_schemes = {"http": None, "https": None, "mailto": None, "shown": None}

nb_execution_mode = "cache"
nb_execution_cache_path = os.environ["CUTAWAY_SITE_CACHE"]
nb_execution_timeout = 1200  # seconds a cell, on cores that others use too
nb_execution_show_tb = True  # a cell that fails is a warning, and so the end of the building, with its error alone
nb_merge_streams = True
nb_render_markdown_format = "myst"  # `say` and `show` write what lessons are written in

python_maximum_signature_line_length = 88
python_display_short_literal_types = True
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
templates_path = [str(HERE / "templates")]
html_title = "cutaway"
html_static_path = [str(HERE / "static")]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_search_scorer = str(HERE / "scorer.js")
html_show_sourcelink = False
html_scaled_image_link = False  # pictures have a width so that their labels can be read
html_copy_source = False
html_show_search_summary = False  # the search page would ask for files, which a browser refuses from file://
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
pygments_style = "a11y-light"
pygments_dark_style = "a11y-dark"
copybutton_exclude = ".linenos, .gp, .go"

html_static_path.append(str(SOURCE / "_static"))  # MathJax, from the package that has it
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "local"}}


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """Return where the source of a name is, from a page of the reference."""
    from docs.site.extension import source_of

    return source_of(_NAMES["sources"], domain, info)

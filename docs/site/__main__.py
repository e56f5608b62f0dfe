"""`python -m docs.site`: build the documentation site from the documents and the code that are there."""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

from docs.site.assembly import assemble
from docs.site.lessons import LessonError
from docs.site.markdown import MissingTextError
from docs.site.places import DeadLinkError

ROOT = Path(__file__).parents[2]


def main() -> int:
    """Build what the arguments ask for, and return the status of the process."""
    parser = argparse.ArgumentParser(prog="python -m docs.site", description=__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository; this one unless given")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docs", help="where the site, its sources and its cache go")
    arguments = parser.parse_args()
    root, out = arguments.root.resolve(), arguments.out.resolve()
    source = out / "source"
    try:
        assemble(root, source)
    except (DeadLinkError, MissingTextError, LessonError) as error:
        print(error, file=sys.stderr)
        return 1
    _take_mathjax(source / "_static" / "mathjax")
    return _build(root, source, out)


def _build(root: Path, source: Path, out: Path) -> int:
    from sphinx.cmd.build import main as sphinx

    os.environ |= {
        "CUTAWAY_SITE_ROOT": str(root),
        "CUTAWAY_SITE_SOURCE": str(source),
        "CUTAWAY_SITE_CACHE": str(_cache(root, out / "executed")),
        "IPYTHONDIR": str(_quiet_kernels(out / "ipython")),
        "OMP_WAIT_POLICY": "passive",  # threads that wait leave the cores to whatever else runs
        "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root), os.environ.get("PYTHONPATH", "")]),
    }
    os.environ.pop("CUTAWAY_COURSE", None)  # lessons run in their fast setting
    logging.getLogger("traitlets").setLevel(logging.WARNING)
    here = str(Path(__file__).parent)
    html = out / "html"
    shutil.rmtree(html, ignore_errors=True)
    status = sphinx(
        ["-q", "-W", "--keep-going", "-E", "-b", "html", "-c", here, "-d", str(out / "doctrees"), str(source), str(html)]
    )
    if status == 0:
        print(f"the site is {html / 'index.html'}")
    return int(status)


def _quiet_kernels(folder: Path) -> Path:
    """Return settings of IPython by which kernels say errors alone, and run nothing of the user's."""
    config = folder / "profile_default" / "ipython_kernel_config.py"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text("c.IPKernelApp.log_level = 'ERROR'\n", "utf-8")
    return folder


def _cache(root: Path, caches: Path) -> Path:
    """Return the folder of what lessons printed under this very library; what they printed under another is removed."""
    code = hashlib.sha256()
    for path in sorted((root / "src").rglob("*.py")):
        code.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    now = caches / code.hexdigest()[:16]
    for other in caches.glob("*"):
        if other != now:
            shutil.rmtree(other)
    return now


def _take_mathjax(target: Path) -> None:
    """Copy the one file of MathJax that draws formulas as SVG, which needs no fonts, from the package that has it."""
    spec = find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise SystemExit("sphinx-mathjax-offline is not installed: make docs installs it")
    target.mkdir(parents=True)
    shutil.copyfile(Path(spec.origin).parent / "static" / "mathjax" / "tex-svg.js", target / "tex-svg.js")


if __name__ == "__main__":
    sys.exit(main())

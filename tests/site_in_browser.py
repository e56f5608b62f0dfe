"""The built site as its readers meet it: every page from the disk in Chromium, light and dark, wide and narrow, by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

_T = TypeVar("_T")
_N_BROWSERS = 2
_AXE = {"resultTypes": ["violations"], "preload": False}  # preloading asks for style sheets, which file:// refuses
_WITHOUT_CONTRAST = {**_AXE, "rules": {"color-contrast": {"enabled": False}}}
_READY = "!window.MathJax?.startup?.promise || MathJax.startup.promise.then(() => true)"
_FAULTS = """() => {
  const faults = [];
  for (const image of document.images) {
    if (!image.complete || !image.naturalWidth) faults.push(`the picture ${image.src.slice(0, 80)} is not shown`);
    if (!image.alt.trim()) faults.push(`the picture ${image.src.slice(0, 80)} has no text`);
  }
  const formulas = document.querySelectorAll("article .math").length, drawn = document.querySelectorAll("mjx-container").length;
  if (drawn < formulas) faults.push(`${formulas} formulas, of which ${drawn} are drawn`);
  for (const error of document.querySelectorAll("mjx-merror, [data-mjx-error]")) {
    faults.push(`a formula is wrong: ${error.title || error.textContent}`);
  }
  return faults;
}"""
_FOCUS = """() => {
  const here = document.activeElement, style = getComputedStyle(here), box = here.getBoundingClientRect();
  const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2 && box.width > 0 && box.right > 0;
  return { is: [...document.querySelectorAll("*")].indexOf(here), matches: ["a.skip-to-content", ".sidebar-search", ".sidebar-tree a",
    "details.fold > summary", "button.switch", ".theme-toggle"].filter((each) => here.matches(each)), seen };
}"""


def faults_of_site(site: Path, chromium: str) -> list[str]:
    """Return what is wrong with any page, a line each."""
    pages = [path for path in sorted(site.rglob("*.html")) if not path.relative_to(site).parts[0].startswith("_")]
    coloured = _pages_with_all_colours(site, pages)
    with ThreadPoolExecutor(_N_BROWSERS) as threads:
        shares = [pages[number::_N_BROWSERS] for number in range(_N_BROWSERS)]
        found = threads.map(
            lambda share: _in_a_browser(chromium, lambda browser: _faults_of_pages(browser, share, coloured)), shares
        )
        faults = [f"{path.relative_to(site)}: {fault}" for part in found for path, fault in part]
    faults += [f"by keyboard: {fault}" for fault in _in_a_browser(chromium, lambda browser: _faults_by_keyboard(browser, site))]
    faults += [f"search: {fault}" for fault in _in_a_browser(chromium, lambda browser: _faults_of_search(browser, site))]
    return faults


def _in_a_browser(chromium: str, look: Callable[[Browser], Iterator[_T]]) -> list[_T]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        found = list(look(browser))
        browser.close()
    return found


def _faults_of_pages(browser: Browser, pages: list[Path], coloured: set[Path]) -> Iterator[tuple[Path, str]]:
    page = browser.new_page(viewport={"width": 1300, "height": 900})
    heard: list[str] = []
    _listen(page, heard)
    for path in pages:
        options = _AXE if path in coloured else _WITHOUT_CONTRAST
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            if scheme == "light":
                page.goto(path.as_uri())
                page.wait_for_function(_READY)
            if scheme == "light" or path in coloured:
                yield from ((path, f"{scheme}: {each}") for each in _violations(page, options))
        yield from ((path, each) for each in page.evaluate(_FAULTS))
        page.set_viewport_size({"width": 400, "height": 900})
        if (width := page.evaluate("document.documentElement.scrollWidth")) > 400:
            yield path, f"it is {width} wide on a screen of 400"
        page.set_viewport_size({"width": 1300, "height": 900})
        yield from ((path, each) for each in heard)
        heard.clear()
    page.close()


def _listen(page: Page, heard: list[str]) -> None:
    page.on("console", lambda message: heard.append(f"console {message.type}: {message.text}") if message.type != "info" else None)
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("requestfailed", lambda request: heard.append(f"failed: {request.url}"))
    page.on("request", lambda request: _is_local(request.url) or heard.append(f"asks {request.url}"))


def _is_local(address: str) -> bool:
    return address.startswith(("file:", "data:", "blob:"))


def _violations(page: Page, options: dict[str, Any]) -> Iterator[str]:
    for violation in Axe().run(page, options=options).response["violations"]:
        yield f"{violation['impact']} {violation['id']}: {violation['nodes'][0]['html'][:160]} ({len(violation['nodes'])} places)"


def _pages_with_all_colours(site: Path, pages: list[Path]) -> set[Path]:
    """Return all pages but, of the hundreds that show source, as many as have every kind of token between them: contrast takes long."""
    shown = [path for path in pages if path.relative_to(site).parts[0] == "source" and path != site / "source" / "index.html"]
    kinds_seen, kept = set[str](), set[Path]()
    for path in sorted(shown, key=lambda path: path.stat().st_size):
        kinds = set(re.findall(r'<span class="(\w{1,3})">', path.read_text("utf-8")))
        if kinds - kinds_seen:
            kinds_seen |= kinds
            kept.add(path)
    return {path for path in pages if path not in shown} | kept


def _faults_by_keyboard(browser: Browser, site: Path) -> Iterator[str]:
    lessons = sorted((site / "course").glob("[0-9]*.html"))
    wanted = {"a.skip-to-content", ".sidebar-search", ".sidebar-tree a", ".theme-toggle"}
    yield from _faults_of_tabbing(browser, site / "index.html", wanted, width=1300)
    yield from _faults_of_tabbing(browser, site / "index.html", {"button.switch"}, width=400)
    folded = [path for path in lessons if "fold-hint" in path.read_text("utf-8")]
    for path in folded[:1]:
        yield from _faults_of_tabbing(browser, path, {"details.fold > summary"}, width=1300, n_keys=250)
        yield from _faults_of_folds(browser, path)
    if lessons and not folded:
        yield "no lesson has a fold"


def _faults_of_tabbing(browser: Browser, path: Path, wanted: set[str], *, width: int, n_keys: int = 60) -> Iterator[str]:
    for scheme in ("light", "dark"):
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        page.goto(path.as_uri())
        page.wait_for_function(_READY)
        left, unseen = set(wanted), []
        for _ in range(n_keys):
            page.keyboard.press("Tab")
            focus = page.evaluate(_FOCUS)
            left -= {*focus["matches"]} if focus["seen"] else set()
            unseen += [] if focus["seen"] else [focus["is"]]
            if not left:
                break
        yield from (f"{path.name}, {scheme}: {n_keys} times Tab do not lead to {each}, seen" for each in sorted(left))
        yield from (f"{path.name}, {scheme}: element {each} has the focus and does not show it" for each in unseen)
        page.close()


def _faults_of_folds(browser: Browser, path: Path) -> Iterator[str]:
    page = browser.new_page()
    page.goto(path.as_uri())
    if page.locator("details.fold[open]").count():
        yield f"{path.name}: a fold is open before anyone asked"
    page.locator("details.fold-hint > summary").first.focus()
    page.keyboard.press("Enter")
    if not page.locator("details.fold-hint").first.evaluate("fold => fold.open"):
        yield f"{path.name}: Enter does not open a hint"
    page.close()


def _faults_of_search(browser: Browser, site: Path) -> Iterator[str]:
    page = browser.new_page()
    heard: list[str] = []
    _listen(page, heard)
    page.goto((site / "search.html").as_uri() + "?q=attention")
    try:
        page.wait_for_selector("#search-results ul.search li a", timeout=20_000)
    except Exception as error:  # whatever it is, it is told
        yield f"nothing is found: {error}"
    yield from heard
    page.close()

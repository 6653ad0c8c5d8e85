"""A browser for page tests: Debian's chromium, headless, driven by playwright; skipped with a reason where it is missing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

WIDTHS = (1280, 390)
# Of every picture: its kind, its width on the page, and whether anything is drawn in it. A canvas that is one colour all
# over is as empty as one that was never drawn on.
PICTURES = """[...document.querySelectorAll('svg, img, canvas')].map(p => {
  const wide = p.getBoundingClientRect().width;
  if (p.tagName === 'IMG') return ['img', wide, p.complete && p.naturalWidth > 1];
  if (p.tagName === 'CANVAS') {
    const d = p.getContext('2d')?.getImageData(0, 0, p.width, p.height).data ?? [];
    return ['canvas', wide, d.some((v, i) => v !== d[i % 4])];
  }
  return ['svg', wide, [...p.querySelectorAll('rect,polyline,polygon,circle,line,path')].some(
    m => { const b = m.getBoundingClientRect(); return b.width + b.height > 0; })];
})"""


@contextmanager
def chromium() -> Iterator[Any]:
    """Yield a headless browser; skip, saying why, where there is none."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as tool:
        browser = tool.chromium.launch(executable_path=program)
        try:
            yield browser
        finally:
            browser.close()


def faults(browser: Any, path: Path, *widths: int) -> tuple[list[str], int]:
    """Open a page from disk, look at each width in pixels; return what is wrong and how many pictures the page holds.

    Wrong: anything on the console, an error of the page, a request that leaves the disk or fails, a picture without
    marks or width, a page wider than the window, a link to a file or a place that is not there.
    """
    page = browser.new_page(viewport={"width": widths[0], "height": 900})
    page.set_default_timeout(200_000)  # a busy machine is no fault of the page
    heard: list[str] = []
    page.on("console", lambda message: heard.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: heard.append(f"error: {error}"))
    page.on("requestfailed", lambda request: heard.append(f"failed: {request.url}"))
    page.on(
        "request",
        lambda request: heard.append(f"request: {request.url}") if urlsplit(request.url).scheme not in ("file", "data", "blob") else None,
    )  # fmt: skip
    try:
        page.goto(path.as_uri(), wait_until="load")
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true })")
        for width in widths:
            page.set_viewport_size({"width": width, "height": 900})
            page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            pictures = page.evaluate(PICTURES)
            heard += [f"picture {number} ({kind}): {wide:.0f} px wide, {'' if drawn else 'not '}drawn, at {width}"
                      for number, (kind, wide, drawn) in enumerate(pictures) if not drawn or wide < 40]  # fmt: skip
            full = page.evaluate("document.documentElement.scrollWidth")
            heard += [f"{full} px wide in a window of {width}"] if full > width else []
        for link in page.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)"):
            parts = urlsplit(link)
            target = Path(unquote(parts.path))
            if parts.scheme != "file" or not target.is_file():
                heard.append(f"link to {link}")
            elif target == path and parts.fragment:
                there = page.evaluate("name => document.getElementById(name) !== null", unquote(parts.fragment))
                heard += [] if there else [f"link to no place: #{parts.fragment}"]
    finally:
        page.close()
    return heard, len(pictures)

"""The pages of the report as a browser sees them, on a desk and on a phone: whole, silent, and from the disk alone."""

from __future__ import annotations

import matplotlib.image
import numpy as np
import pytest
from browsers import WIDTHS, chromium, faults
from test_document import EXTRA
from test_report import leave_explained, make_run, run_stages, write_json

GOOD = "<!doctype html><link rel=icon href='data:,'><p id=a>text</p><a href='#a'>a</a><svg width=90 height=50><rect width=20 height=9 /></svg>"
PLANTED = {
    "a request": (GOOD + "<img src='http://127.0.0.1:9/x.png' width=50>", "request: http://127.0.0.1:9/x.png"),
    "a script's error": (GOOD + "<script>nothing.here()</script>", "error: nothing is not defined"),
    "a word on the console": (GOOD + "<script>console.warn('hm')</script>", "console: hm"),
    "an empty plot": (GOOD + "<svg width=90 height=50><g></g></svg>", "picture 1 (svg): 90 px wide, not drawn"),
    "a plot without width": (
        GOOD + "<svg width=0 height=50><rect width=9 height=9 /></svg>",
        "picture 1 (svg): 0 px wide",
    ),
    "a blank canvas": (GOOD + "<canvas width=90 height=50></canvas>", "picture 1 (canvas): 90 px wide, not drawn"),
    "a page too wide": (GOOD + "<div style='width:3000px'>x</div>", "px wide in a window of"),
    "a link to no file": (GOOD + "<a href='other.html'>x</a>", "link to file://"),
    "a link to no place": (GOOD + "<a href='#b'>x</a>", "link to no place: #b"),
}


def test_every_fault_of_a_page_is_found_and_a_good_page_has_none(tmp_path):
    path = tmp_path / "page.html"
    with chromium() as browser:
        path.write_text(GOOD)
        assert faults(browser, path, 390) == ([], 1)
        for name, (text, told) in PLANTED.items():
            path.write_text(text)
            found, _ = faults(browser, path, 390)
            assert any(told in one for one in found), (name, found)


@pytest.mark.parametrize("language", ["en", pytest.param("zh", marks=pytest.mark.slow)])
def test_every_page_of_the_report_is_whole_at_both_widths_without_network(tmp_path, monkeypatch, language):
    run = make_run(tmp_path, customers=400, language=language, features=6)
    for name, content in EXTRA.items():
        write_json(run / "data" / name, content)
    leave_explained(run / "data")
    matplotlib.image.imsave(run / "data/explain/pictures/beeswarm.png", np.eye(60))
    run_stages(run, monkeypatch)
    pages = sorted((run / "data/report").glob("*.html"))
    assert {"document", "explanation", "index"} <= {page.stem for page in pages}
    with chromium() as browser:
        for page in pages:
            found, pictures = faults(browser, page, *WIDTHS)
            assert found == [], page.name
            assert pictures >= {"index": 30}.get(page.stem, 0)

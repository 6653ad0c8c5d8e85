"""The catalogue of features as one page that works offline: every feature in words, by subject, to search and to print.

Everything stands in the file itself: no fonts, scripts or pictures from elsewhere. The same catalogue gives the same
bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

STYLE = """
:root{color-scheme:light dark;--line:#8884;--quiet:#777;--mark:#b4530911}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:1200px;padding:1.5rem}
h1{font-size:1.5rem;margin:0 0 .25rem}h2{font-size:1.1rem;margin:1.75rem 0 .25rem}p{margin:.25rem 0}
.quiet{color:var(--quiet)}.tools{position:sticky;top:0;background:Canvas;padding:.75rem 0;display:flex;gap:.5rem;
flex-wrap:wrap}
input,select{font:inherit;padding:.35rem .5rem;border:1px solid var(--line);border-radius:4px;background:Canvas;
color:CanvasText}
input{flex:1;min-width:14rem}table{border-collapse:collapse;width:100%;table-layout:fixed}
th,td{text-align:left;vertical-align:top;padding:.35rem .5rem;border-bottom:1px solid var(--line);
overflow-wrap:anywhere}
th{font-weight:600;font-size:.85rem}code{font:.85rem ui-monospace,monospace}
.n{text-align:right;font-variant-numeric:tabular-nums}small{color:var(--quiet);display:block}
nav{columns:4 12rem;margin:.75rem 0;font-size:.9rem}nav a{display:block;color:inherit}
tr:target{background:var(--mark)}
col.name{width:27%}col.says{width:37%}col.unit{width:8%}col.risk{width:8%}col.miss{width:9%}col.first{width:11%}
[hidden]{display:none!important}
@media print{.tools,nav{display:none}body{max-width:none;padding:0;font-size:9pt}h2{break-after:avoid}
tr{break-inside:avoid}thead{display:table-header-group}}
"""
SCRIPT = """
const words=document.getElementById('words'),family=document.getElementById('family'),
found=document.getElementById('found');
const rows=[...document.querySelectorAll('section tbody tr')].map(r=>({r,text:r.textContent.toLowerCase(),
family:r.dataset.family}));
function sift(){const asked=words.value.toLowerCase().split(/\\s+/).filter(Boolean);let n=0;
for(const one of rows){const on=asked.every(w=>one.text.includes(w))&&(!family.value||one.family===family.value);
one.r.hidden=!on;n+=on}
for(const part of document.querySelectorAll('section'))part.hidden=!part.querySelector('tbody tr:not([hidden])');
found.textContent=n+' of '+rows.length}
words.addEventListener('input',sift);family.addEventListener('change',sift);sift();
"""
RISK = {1: "rises", -1: "falls", 0: "–"}


def page(
    catalogue: Iterable[Mapping[str, Any]],
    built: Mapping[str, Iterable[str]],
    skipped: Mapping[str, str],
    rows: int | None = None,
) -> str:
    """Return the page as HTML: `built` is subject -> names of its features, `skipped` subject -> why.

    rows: of training, on which missing values were counted.
    """
    by_name = {entry["name"]: entry for entry in catalogue}
    families = sorted({str(entry["family"]) for entry in by_name.values()})
    options = "".join(f'<option value="{_text(name)}">{_text(name.replace("_", " "))}</option>' for name in families)
    told = {subject: [by_name[name] for name in names] for subject, names in built.items()}
    sections = "".join(_section(subject, entries) for subject, entries in told.items())
    contents = "".join(
        f'<a href="#subject-{_text(subject)}">{_text(subject.replace("_", " "))} ({len(entries)})</a>'
        for subject, entries in told.items()
        if entries
    )
    counted = "" if rows is None else f" ({rows:,})"
    absent = "".join(
        f"<tr><td><code>{_text(name)}</code></td><td>{_text(why)}</td></tr>" for name, why in skipped.items()
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>Features</title><style>{STYLE}</style></head><body>\n"
        f"<h1>Features</h1>\n"
        f'<p class="quiet">{len(by_name)} features. A value that was unknown on the date is null, never 0, unless '
        f"the sentence says so. Risk: whether it rises or falls as the value does, where that is known beforehand; "
        f"models are held to it. Missing: the share of training rows{counted} without a value. First known: the first "
        "training date that has one. The digits under a name change when what it computes changes.</p>\n"
        f'<nav aria-label="Subjects">{contents}</nav>\n'
        f'<div class="tools"><input id="words" type="search" placeholder="Search names and sentences"'
        ' aria-label="Search">'
        f'<select id="family" aria-label="Family"><option value="">all families</option>{options}</select>'
        f'<span id="found" class="quiet" aria-live="polite"></span></div>\n{sections}'
        + (f"<h2 id='not-built'>Not built</h2><table class='absent'>{absent}</table>\n" if absent else "")
        + f"<script>{SCRIPT}</script></body></html>\n"
    )


def _section(subject: str, entries: list[Mapping[str, Any]]) -> str:
    if not entries:
        return ""
    sources = ", ".join(dict.fromkeys(name for entry in entries for name in str(entry["sources"]).split(", ") if name))
    rows = "".join(_row(entry, sources) for entry in entries)
    head = "".join(f'<th scope="col"{kind}>{title}</th>' for title, kind in (
        ("Name", ""), ("What it says", ""), ("Unit", ""), ("Risk", ""), ("Missing", ' class="n"'), ("First known", ""),
    ))  # fmt: skip
    columns = "".join(f'<col class="{name}">' for name in ("name", "says", "unit", "risk", "miss", "first"))
    return (
        f'<section id="subject-{_text(subject)}"><h2>{_text(subject.replace("_", " "))} '
        f'<span class="quiet">({len(entries)})</span></h2>'
        f'<p class="quiet">From {_text(sources)}</p><table><colgroup>{columns}</colgroup><thead><tr>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></section>\n"
    )


def _row(entry: Mapping[str, Any], usual: str) -> str:
    missing = entry.get("missing_share")
    first = entry.get("first_as_of")
    name = _text(entry["name"])
    whence = "" if str(entry["sources"]) == usual else f" From {_text(entry['sources'])}."
    return (
        f'<tr id="{name}" data-family="{_text(entry["family"])}"><td><code>{name}</code>'
        f"<small>{_text(str(entry['family']).replace('_', ' '))} · {_text(entry['definition_hash'])}</small></td>"
        f"<td>{_text(entry['sentence'])}<small lang='zh'>{_text(entry['sentence_zh'])}</small>"
        f"<small>Null: {_text(entry['null_means'])}.{whence}</small></td>"
        f"<td>{_text(entry['unit'] or ('category' if entry['kind'] == 'categorical' else ''))}</td>"
        f"<td>{RISK[entry['direction']]}</td>"
        f'<td class="n">{"" if missing is None else f"{missing:.1%}"}</td>'
        f"<td>{'' if first is None else first.isoformat()}</td></tr>"
    )


def _text(value: Any) -> str:
    return escape(str(value), quote=True)

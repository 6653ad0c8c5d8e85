"""The model document: chapter by chapter, each with the figures that it rests on, read from what the stages left.

What a chapter says, which figures it shows and which law asks for it stands in `templates/document.yaml`, in English
and Chinese. A figure that no file holds is null, which the page shows as not known. `report` writes the page.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from pipeline.stage import read_json

DATA = Path("data")
CHAPTERS = Path(__file__).parent / "templates/document.yaml"
MOST = 12  # rows of a table that has no number of its own


def found(read: Callable[[str], Any], at: str) -> Any:
    """Return the value at `file#/key/key` below data/, or null where the file or a key is absent.

    A number among the keys is a place in a list, from the end where negative.
    """
    name, _, keys = at.partition("#/")
    value = read(name)
    for key in filter(None, keys.split("/")):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and key.lstrip("-").isdecimal() and -len(value) <= int(key) < len(value):
            value = value[int(key)]
        else:
            return None
    return value


def holds(read: Callable[[str], Any], condition: str | None) -> bool:
    """Return whether `at = text`, `at != text` or `at` (anything but null, false, 0 or empty) is so; null: always."""
    if condition is None:
        return True
    for sign in (" != ", " = "):
        at, stated, text = condition.partition(sign)
        if stated:
            return (str(found(read, at)) == text) == (sign == " = ")
    return bool(found(read, condition))


def told(tongue: str, made: dict[str, Any], data: Path = DATA) -> dict[str, Any]:
    """Return the document in language `tongue` (en or zh): words, laws, and chapters with their figures.

    made: content of files below data/, by name, that are only about to be written.

    chapters: key, title, says, asks (law and what it wants), facts (label, value, form, low, high, at), tables (title,
    columns, rows as lists or null, forms, at, more: rows not shown), people (what is left for them to write).
    """
    spec = yaml.safe_load(CHAPTERS.read_text(encoding="utf-8"))
    side = 0 if tongue == "en" else 1

    @cache
    def read(name: str) -> Any:
        path = data / name
        if name in made:
            return made[name]
        return read_json(path) if path.is_file() else None

    def chosen(entries: list[dict[str, Any]] | None) -> list[dict[str, Any]]:
        return [entry for entry in entries or [] if holds(read, entry.get("if"))]

    laws = [
        {"key": key, **law, "name": law["name"][side], "says": law["says"][side]} for key, law in spec["laws"].items()
    ]
    return {
        "words": {key: pair[side] for key, pair in spec["words"].items()},
        "laws": laws,
        "chapters": [
            {
                "key": chapter["key"],
                "title": chapter["title"][side],
                "says": [entry["text"][side] for entry in chosen(chapter.get("says"))],
                "asks": [
                    {"law": law, "date": spec["laws"][law]["date"], "name": spec["laws"][law]["name"][side],
                     "text": text[side]}
                    for law, text in chapter["asks"].items()
                ],
                "facts": [_fact(read, entry, side) for entry in chosen(chapter.get("facts"))],
                "tables": [_table(read, entry, side) for entry in chosen(chapter.get("tables"))],
                "people": [pair[side] for pair in chapter.get("people") or []],
            }
            for chapter in spec["chapters"]
        ],
    }  # fmt: skip


def _fact(read: Callable[[str], Any], entry: dict[str, Any], side: int) -> dict[str, Any]:
    """Return one figure with its label, its interval where it has one, and where it was read."""
    value, form = found(read, entry["at"]), entry.get("form", "num")
    if form == "count" and value is not None:
        value = len(value)
    ends = {end: found(read, entry[end]) if end in entry else None for end in ("low", "high")}
    return {"label": entry["label"][side], "value": value, "form": form, "at": entry["at"], **ends}


def _table(read: Callable[[str], Any], entry: dict[str, Any], side: int) -> dict[str, Any]:
    """Return the records of a list (or the pairs of a mapping, as records of key and value) as rows of a table."""
    there = found(read, entry["at"])
    if isinstance(there, dict):
        there = [{"key": key, "value": value} for key, value in sorted(there.items())]
    wanted = entry.get("only", {}).items()
    records = [record for record in there or [] if all(record.get(key) == value for key, value in wanted)]
    if entry.get("newest"):
        records.reverse()
    most = entry.get("most", MOST)
    columns = entry["columns"]
    rows = [
        [found(lambda _, record=record: record, f"#/{_keyed(column['key'], side)}") for column in columns]
        for record in records[:most]
    ]
    return {
        "title": entry["title"][side],
        "at": entry["at"],
        "columns": [column["label"][side] for column in columns],
        "forms": [column.get("form", "num") for column in columns],
        "rows": None if there is None else rows,
        "more": max(len(records) - most, 0),
    }


def _keyed(key: str | list[str], side: int) -> str:
    """Return a column's key, which may be one for each language."""
    return key if isinstance(key, str) else key[side]


def figures(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document's figures by chapter, each with the place that it was read from, as JSON holds them."""
    return {
        chapter["key"]: {
            "facts": [{key: fact[key] for key in ("label", "value", "low", "high", "at")} for fact in chapter["facts"]],
            "tables": [{key: table[key] for key in ("title", "columns", "rows", "at")} for table in chapter["tables"]],
        }
        for chapter in document["chapters"]
    }

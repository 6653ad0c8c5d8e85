"""What values look like: encoding, delimiter, decimal mark, date formats, types of a column's texts. Guesses alone."""

from __future__ import annotations

import codecs
import csv
import datetime as dt
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

RELATIVE = "@as_of"  # stands for the one date of the mapping, which the draft fills in
SIGNS = "€$£¥₹%"
NULLS = ("NA", "N/A", "n/a", "NULL", "null", "None", "nan", "NaN", "?", "-", "#N/A", "\\N")
DATES = (
    "%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%Y.%m.%d", "%d-%m-%Y", "%d-%b-%Y", "%d-%b-%y",
    "%d.%m.%y",    "%d/%m/%y", "%m/%d/%y", "%Y%m%d", "%Y%m", "%y%m%d", "%Y年%m月%d日", "%d %b %Y",
    "%b %d, %Y", "%d%b%Y", "%Y%m%d.0", "%b-%Y", "%Y-%m", "%m/%Y", "%b %Y",
)  # fmt: skip
TIMES = ("", " %H:%M:%S", " %H:%M", " %H:%M:%S.%f", "T%H:%M:%S", "T%H:%M:%S.%f", "T%H:%M:%SZ")
ISO = ("%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S.%f", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S.%f")
BARE = ("%Y%m%d", "%y%m%d", "%Y%m")  # digits alone: a date only where nearly all values are and the name says so


@dataclass
class Column:
    """One column of a file: its name, what its values look like, and facts about them."""

    name: str
    kind: str  # date, number, whole, text, empty
    filled: int
    different: int
    dates: list[str] = field(default_factory=list)
    whole: bool = False
    values: list[str] = field(default_factory=list)  # different ones, at most fifty, most frequent first
    low: float | None = None
    high: float | None = None
    newest: dt.date | None = None
    sql: str = ""  # what makes the day, or the amount, of it; empty: the column itself

    @property
    def said(self) -> str:
        """Return the SQL of the column's value."""
        return self.sql or self.name


def quoted(name: str) -> str:
    """Return a column's name as an expression may hold it."""
    return name if re.fullmatch(r"[A-Za-z_]\w*", name) else '"' + name.replace('"', '""') + '"'


def encoding_of(data: bytes, *, whole: bool) -> tuple[str, str]:
    """Return the likely codec of some text and why."""
    for mark, name in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16")):
        if data.startswith(mark):
            return name, "a byte order mark says so"
    odd, even = data[1:4000:2].count(0), data[0:4000:2].count(0)
    if odd + even > 20:  # text has no zero bytes but those of two-byte letters
        return ("utf-16-le" if odd > even else "utf-16-be"), "the upper byte of many letters is zero"
    if _decodes(data, "utf-8", whole=whole):
        return "utf-8", "all bytes are"
    high = re.findall(rb"[\x81-\xfe][\x40-\x7e\x80-\xfe]", data)
    text = data.decode("gb18030", "replace") if _decodes(data, "gb18030", whole=whole) else ""
    han = len(re.findall(r"[\u4e00-\u9fff]", text))
    if han and han >= len(high) * 0.7 and han > len(re.findall(rb"[\xc0-\xff](?![\x80-\xff])", data)):
        return "gb18030", "its bytes are no UTF-8, and read so they are Chinese characters"
    return ("cp1252", "its bytes are no UTF-8; Western European is the likeliest") if not re.search(
        rb"[\x81\x8d\x8f\x90\x9d]", data
    ) else ("latin-1", "its bytes are no UTF-8 and no Windows text")  # fmt: skip


def _decodes(data: bytes, name: str, *, whole: bool) -> bool:
    try:
        codecs.getincrementaldecoder(name)().decode(data, final=whole)
    except UnicodeDecodeError:
        return False
    return True


def delimiter_of(text: str) -> tuple[str, str]:
    """Return the likely delimiter and why: the sign that splits most lines into the same number of fields."""
    lines = [line for line in text.splitlines()[:200] if line.strip()]
    best = (",", 0.0, 1)
    for sign in (",", ";", "\t", "|", "^", "~"):
        try:
            widths = Counter(len(row) for row in csv.reader(lines, delimiter=sign))
        except csv.Error:
            continue
        width, count = max(((w, n) for w, n in widths.items() if w > 1), key=lambda pair: pair[1], default=(1, 0))
        share = count / max(sum(widths.values()), 1)
        better, alike = share > best[1] + 0.02, abs(share - best[1]) <= 0.02
        if width > 1 and (better or (alike and width > best[2])):
            best = (sign, share, width)
    if best[2] == 1:
        return ",", "no other sign splits its lines: one column"
    return best[0], f"it splits {best[1]:.0%} of the lines into {best[2]} fields"


def date_formats(values: Iterable[str]) -> list[str]:
    """Return the fewest strptime formats that read all of `values` (98% of many), [] where they are no dates."""
    texts = [value.strip() for value in values if value and value.strip()]
    few = texts[:2000]
    if not few:
        return []
    wanted = len(few) if len(few) < 50 else len(few) * 0.98
    reads = {}
    for day in DATES:
        for time in TIMES:
            form = day + time
            count = sum(_reads(text, form) for text in few[:25])
            if count:
                reads[form] = {place for place, text in enumerate(few) if _reads(text, form)}
    chosen: list[str] = []
    covered: set[int] = set()
    while len(covered) < wanted and len(chosen) < 3:
        best = max(reads, key=lambda form: len(reads[form] - covered), default=None)
        if best is None or not reads[best] - covered:
            return []
        chosen.append(best)
        covered |= reads[best]
    return chosen if len(covered) >= wanted else []


def _reads(text: str, form: str) -> bool:
    if form.startswith(BARE) and not re.fullmatch(r"\d{6}|\d{8}(\.0)?", text):
        return False
    try:
        day = dt.datetime.strptime(text, form)  # noqa: DTZ007 (a date)
    except ValueError:
        return False
    return 1900 <= day.year <= 2100


def number_marks(columns: Iterable[list[str]]) -> tuple[str, str]:
    """Return (decimal mark, grouping mark) of the columns that look like numbers."""
    votes: Counter[tuple[str, str]] = Counter()
    for values in columns:
        texts = [value for value in values if value]
        for marks, pattern in (
            ((",", "."), r"[-+]?\d{1,3}(\.\d{3})+,\d+"), ((".", ","), r"[-+]?\d{1,3}(,\d{3})+\.\d+"),
            ((",", " "), r"[-+]?\d{1,3}( \d{3})+,\d+"), ((",", ""), r"[-+]?\d+,\d+"), ((".", ""), r"[-+]?\d+\.\d+"),
            (("." , "'"), r"[-+]?\d{1,3}('\d{3})+(\.\d+)?"),
        ):  # fmt: skip
            votes[marks] += sum(bool(re.fullmatch(pattern, text)) for text in texts[:500])
    grouped = [(count, marks) for marks, count in votes.items() if marks[1] and count]
    plain = [(count, marks) for marks, count in votes.items() if not marks[1] and count]
    if plain and (not grouped or max(plain)[1][0] != max(grouped)[1][0]):
        return max(plain)[1] if not grouped or max(plain)[0] > max(grouped)[0] else max(grouped)[1]
    return max(grouped)[1] if grouped else (".", "")


def describe(name: str, values: list[str], nulls: set[str], marks: tuple[str, str]) -> Column:
    """Return what a column's values look like."""
    texts = [value.strip() for value in values if value.strip() and value.strip() not in nulls]
    counts = Counter(texts)
    column = Column(name, "empty" if not texts else "text", len(texts), len(counts))
    column.values = [value for value, _ in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:50]]
    if not texts:
        return column
    numbers = [_number(text, marks) for text in texts]
    good = [number for number in numbers if number is not None]
    numeric = len(good) >= len(texts) * 0.98 and len(good) > 0
    dated = re.search(
        r"(?i)date|day|datum|fecha|_on$|_at$|time|(^|_)ts$|[a-z]Ts$|since|birth|period|month|open|[_ ]ym$|日期|时间",
        name,
    )
    if numeric and (column_since(column, good, dated=bool(dated)) or column_relative(column, name, good)):
        return column
    texts = [re.sub(r"([+-]\d{2}:?\d{2}|Z)$", "", text) if "T" in text or ":" in text else text for text in texts]
    formats = [] if numeric and not dated else date_formats(texts)
    if not formats and all(re.fullmatch(r"\d{4}[- ]?Q[1-4]", text) for text in texts):
        column.kind = "date"
        column.sql = f"make_date(left({quoted(name)}, 4), 3 * right({quoted(name)}, 1) - 2, 1)"
        return column
    if formats and not (numeric and not all(form.startswith(BARE) for form in formats)):
        column.kind, column.dates = "date", formats
        column.newest = max((day for day in (_day(text, formats) for text in counts) if day), default=None)
        return column
    if numeric:
        column.whole = all(number == int(number) for number in good if abs(number) < 1e15)
        column.kind = "whole" if column.whole else "number"
        column.low, column.high = min(good), max(good)
        if column.whole and re.search(r"(?i)cents?$|_minor$", name):
            column.sql = f"{quoted(name)} / 100"
        if any(re.fullmatch(r"0\d+", text) for text in texts):
            column.kind = "text"  # leading zeros are an identifier's
    return column


def column_since(column: Column, numbers: list[float], *, dated: bool) -> bool:
    """Tell whether numbers are seconds or milliseconds since 1970, and note the column's dates."""
    for form, least in (("epoch", 6e8), ("epoch_ms", 6e11)):
        if dated and least <= min(numbers) and max(numbers) < least * 5:
            column.kind, column.dates = "date", [form]
            column.newest = dt.date(1970, 1, 1) + dt.timedelta(seconds=max(numbers) / (least / 6e8))
            return True
    return False


def column_relative(column: Column, name: str, numbers: list[float]) -> bool:
    """Tell whether numbers count days or months back from the decision, and note the SQL of the date."""
    words = re.sub(r"[^a-z]+", " ", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    back = min(numbers) < 0 and max(numbers) <= 0 and all(number == int(number) for number in numbers)
    unit = next((unit for unit in ("days", "months") if re.search(rf"\b{unit}?\b", words)), None)
    if not back or unit is None or re.search(r"birth|employ|registr|id publish|phone", words):
        return False
    column.kind, column.sql = "date", f"{RELATIVE} + {quoted(name)}"
    if unit == "months":
        column.sql = f"last_day({RELATIVE} + to_months({quoted(name)} - 1))"
    return True


def _day(text: str, formats: list[str]) -> dt.date | None:
    """Return a text as a date."""
    for form in formats:
        try:
            return dt.datetime.strptime(text, form).date()  # noqa: DTZ007 (a date)
        except ValueError:
            continue
    return None


def _number(text: str, marks: tuple[str, str]) -> float | None:
    decimal, group = marks
    sign = re.escape(group)
    if group and group in text and not re.fullmatch(rf"[-+]?\d{{1,3}}({sign}\d{{3}})+(\D\d+)?", text):
        return None
    plain = text.replace(group, "") if group else text
    plain = plain if decimal == "." else plain.replace(decimal, ".")
    try:
        value = float(plain) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", plain) else None
    except (ValueError, OverflowError):
        return None
    return value if value is not None and abs(value) < 1e300 else None


def signs_of(values: list[str], nulls: set[str]) -> set[str]:
    """Return the currency and percent signs that a column's numbers are written with."""
    texts = [value for value in values if value and value not in nulls][:500]
    signed = [text for text in texts if re.fullmatch(rf"[-+({SIGNS} ]*[\d.,' ]*\d[) {SIGNS}]*", text)]
    return {sign for sign in SIGNS if any(sign in text for text in signed)} if len(signed) == len(texts) else set()

"""A mapping's SQL, read by DuckDB's own parser: which columns it names, and what raw text becomes inside it.

Raw files hold text. `case when type = 'credit' then amount else -amount end` must nevertheless work, also where amounts
are written 1.234,56 and dates 930705. So the syntax tree is walked from the root: where a number or a date is wanted
(by the target column, by arithmetic, by a comparison with a number or a date) and a column of text stands, the column
is read as the file's format says. Everything else stays as it was written. No subquery, window or star is allowed: an
expression speaks about one row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

ARITHMETIC = {"+", "-", "*", "/", "//", "%", "**", "^"}
NUMBER_FUNCTIONS = {"abs", "round", "floor", "ceil", "ceiling", "ln", "log", "log10", "log2", "exp", "sqrt", "power",
                    "pow", "sign", "trunc", "mod", "to_timestamp"}  # fmt: skip
CARRIERS = {"greatest", "least", "nullif", "ifnull", "coalesce"}
DATE_FUNCTIONS = {"year", "month", "day", "quarter", "week", "last_day", "date_trunc", "datetrunc", "date_diff",
                  "datediff", "date_sub", "datesub", "date_part", "datepart", "date_add", "age", "dayofyear",
                  "dayofweek", "isodow", "strftime", "epoch", "monthname"}  # fmt: skip
INTERVALS = {"to_days", "to_months", "to_years", "to_weeks", "to_quarters", "to_hours", "to_seconds"}
WHOLE_FUNCTIONS = {"epoch_ms", "make_timestamp", "make_date"}
TEXT_FUNCTIONS = {"left", "right", "substr", "substring", "replace", "split_part", "regexp_extract", "regexp_replace",
                  "trim", "ltrim", "rtrim", "translate", "->>", "json_extract_string"}  # fmt: skip
NUMBERS = ("number", "money", "rate")
COUNTS = {"whole": "BIGINT", "days": "INTEGER"}
READ_AS = (*NUMBERS, *COUNTS, "date")
SINCE = {  # date formats that strptime has no sign for: seconds or milliseconds since 1970, days in a spreadsheet
    "epoch": "CAST(make_timestamp(CAST({} * 1000000 AS BIGINT)) AS DATE)",
    "epoch_ms": "CAST(make_timestamp(CAST({} * 1000 AS BIGINT)) AS DATE)",
    "excel": "DATE '1899-12-30' + CAST(floor({}) AS INTEGER)",
}
NUMERIC = ("INTEGER", "BIGINT", "DECIMAL", "DOUBLE", "FLOAT", "HUGEINT", "SMALLINT", "TINYINT", "UINTEGER", "UBIGINT")
REFUSED = {"SUBQUERY": "a subquery", "WINDOW": "a window function", "STAR": "a star"}


class SqlFault(Exception):
    """The text is no single SQL expression; the message says why, without any value of the data."""


@dataclass(frozen=True)
class Texts:
    """How a file writes numbers and dates."""

    decimal: str = "."
    thousands: str = ""
    dates: tuple[str, ...] = ()
    strip: str = ""

    def digits(self, sql: str) -> str:
        """Return SQL of the text with the decimal point that SQL reads, and without currency signs and the like.

        A mark that does not stand as it should (10,50 where the comma parts thousands, 10.50 where the comma is the
        decimal mark) makes the text no number: a `?` is put into it.
        """
        text = f"translate({sql}, {quote(self.strip)}, '')" if self.strip else sql
        if self.thousands:
            mark = re.escape(self.thousands)
            text = f"trim({text}, {quote(self.thousands + ' ')})" if self.thousands.isspace() else text
            groups = f"[0-9]{{1,3}}({mark}[0-9]{{2,3}})*{mark}[0-9]{{3}}"
            parted = quote(f"^[^0-9{mark}]*{groups}($|[^0-9{mark}][^{mark}]*$)")
            whole = f"NOT contains({text}, {quote(self.thousands)}) OR regexp_matches({text}, {parted})"
            text = f"CASE WHEN {whole} THEN replace({text}, {quote(self.thousands)}, '') ELSE '?' || {text} END"
        if self.decimal == ".":
            return text
        return f"translate({text}, {quote(self.decimal + '.')}, '.?')"

    def number(self, sql: str) -> str:
        """Return SQL of the text as a DOUBLE; an SQL error where it is none."""
        return f"CAST({self.digits(sql)} AS DOUBLE)"

    def money(self, sql: str) -> str:
        """Return SQL of the text as an exact number of up to four decimals; an SQL error where it is none.

        DECIMAL(18,4) and no wider: DuckDB reads text into wider decimals fifty times slower.
        """
        text = self.digits(sql)
        return f"CAST(CASE WHEN {over(text, 4)} THEN {text} || ' has more decimals' ELSE {text} END AS DECIMAL(18,4))"

    def rate(self, sql: str) -> str:
        """Return SQL of the text as a DOUBLE where that is exact to the cent; an SQL error for longer numbers."""
        text = self.digits(sql)
        return f"CAST(CASE WHEN abs(TRY_CAST({text} AS DOUBLE)) < 1e13 THEN {text} END AS DOUBLE)"

    def whole(self, sql: str) -> str:
        """Return SQL of the text as a whole number (`-1200.0` is one); an SQL error where it is none."""
        text = self.digits(sql)
        checked = f"CASE WHEN {over(text, 0)} THEN {text} || ' is not whole' ELSE {text} END"
        return f"CAST(CAST({checked} AS DOUBLE) AS BIGINT)"

    def days(self, sql: str) -> str:
        """Return SQL of the text as a number of days, months or years; an SQL error where it is none."""
        return f"CAST({self.whole(sql)} AS INTEGER)"

    def date(self, sql: str) -> str:
        """Return SQL of the text as a date; an SQL error where it is none."""
        return f"coalesce({self.maybe_date(sql)}, CAST({sql} || ' is no date' AS DATE))"

    def maybe_date(self, sql: str) -> str:
        """Return SQL of the text as a date, null where it is none: the day as written, whatever time and zone."""
        if not self.dates:  # a cast to DATE alone would let pass whatever follows the day
            long = f"CAST(TRY_CAST(trim({sql}) AS TIMESTAMP) AS DATE)"
            word = f"{sql} >= ':' THEN NULL"  # `epoch` and `infinity` are dates to the engine
            return f"CASE WHEN {word} WHEN length({sql}) <= 10 THEN TRY_CAST({sql} AS DATE) ELSE {long} END"
        forms = ", ".join(quote(form) for form in self.dates if form not in SINCE)
        read = [SINCE[form].format(f"TRY_CAST({self.digits(sql)} AS DOUBLE)") for form in self.dates if form in SINCE]
        read += [f"CAST(try_strptime({sql}, [{forms}]) AS DATE)"] if forms else []
        return read[0] if len(read) == 1 else f"coalesce({', '.join(read)})"


def over(text: str, decimals: int) -> str:
    """Return SQL of whether a text writes more than `decimals` decimals (zeros at the end do not count).

    A negative exponent may hide decimals and counts as some, an underscore (which the engine would pass over) too.
    """
    return f"regexp_matches({text}, '\\.[0-9]{{{decimals}}}[0-9]*[1-9]|[eE]-|_')"


def quote(text: str) -> str:
    """Return an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def name(*parts: str) -> str:
    """Return a quoted SQL identifier."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


@dataclass(frozen=True)
class Relation:
    """A raw relation of the engine: its name there, its columns and types, how its texts are written."""

    name: str
    types: dict[str, str]
    texts: Texts
    shapes: tuple[tuple[tuple[int, ...], tuple[str, ...]], ...] = ()  # (numbers of files, their columns); (): all alike
    odd: bool = True  # its texts may hold NUL or a byte order mark

    def original(self, row: str, file: str) -> str:
        """Return SQL of a row's text as JSON: the columns of its own file in their order, whatever other files have.

        `row` prefixes a column's name, `file` is SQL of the number of the row's file.
        """

        def pack(columns: Iterable[str]) -> str:
            fields = ", ".join(f"{name(column)} := {row}.{name(column)}" for column in columns)
            return f"CAST(to_json(struct_pack({fields})) AS VARCHAR)"

        if len(self.shapes) < 2:
            return pack(self.shapes[0][1] if self.shapes else self.types)
        cases = (
            f"WHEN {file} IN ({', '.join(map(str, files))}) THEN {pack(columns)}" for files, columns in self.shapes
        )
        return f"CASE {' '.join(cases)} END"


def parse(connection: Any, sql: str) -> dict[str, Any]:
    """Return the syntax tree of one SQL expression; raise SqlFault where the text is none."""
    text = connection.execute(f"SELECT json_serialize_sql({quote(f'SELECT {sql}{chr(10)}')})").fetchone()[0]
    tree = json.loads(text)
    if tree["error"]:
        raise SqlFault(" ".join(str(tree.get("error_message", "it cannot be read")).split()))
    statements = tree["statements"]
    node = statements[0]["node"] if len(statements) == 1 else {}
    plain = node.get("type") == "SELECT_NODE" and len(node["select_list"]) == 1 and node["where_clause"] is None
    if not plain or node["from_table"]["type"] != "EMPTY" or node["modifiers"] or node["group_expressions"]:
        raise SqlFault("it is more than one expression")
    root = node["select_list"][0]
    for part in _walk(root):
        if part.get("class") in REFUSED:
            raise SqlFault(f"it holds {REFUSED[part['class']]}, and may only speak about one row")
    root["alias"] = ""
    return root


def to_sql(connection: Any, root: dict[str, Any]) -> str:
    """Return the SQL text of a syntax tree."""
    frame = json.loads(connection.execute("SELECT json_serialize_sql('SELECT 1')").fetchone()[0])
    frame["statements"][0]["node"]["select_list"] = [root]
    text = connection.execute(f"SELECT json_deserialize_sql({quote(json.dumps(frame))})").fetchone()[0]
    return text.removeprefix("SELECT ").strip().removesuffix(";")


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    """Yield every expression of a syntax tree."""
    if isinstance(node, dict):
        if "class" in node:
            yield node
        for child in node.values():
            yield from _walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from _walk(child)


def columns_of(root: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the columns that an expression names, as (name,) or (alias, name); lambda parameters are left out."""
    bound = {
        part["lhs"]["column_names"][0]
        for part in _walk(root)
        if part["class"] == "LAMBDA" and part.get("lhs", {}).get("class") == "COLUMN_REF"
    }
    found = [tuple(part["column_names"]) for part in _walk(root) if part["class"] == "COLUMN_REF"]
    return [column for column in dict.fromkeys(found) if column[0] not in bound]


def multiplies(root: dict[str, Any]) -> bool:
    """Tell whether an expression multiplies or divides: rates have more decimals than money."""
    return any(_operation(part) in ("*", "/") for part in _walk(root))


def is_plain(root: dict[str, Any]) -> bool:
    """Tell whether an expression is a column's name and nothing else."""
    return root["class"] == "COLUMN_REF"


def _operation(node: dict[str, Any]) -> str:
    """Return the name of a function or operator, or an empty text."""
    return str(node.get("function_name", "")).lower() if node.get("class") == "FUNCTION" else ""


def _kind(node: dict[str, Any]) -> str | None:
    """Return `number`, `date`, `interval` or None: what an expression is seen to be without knowing the columns."""
    if node["class"] == "CONSTANT":
        kind = node["value"]["type"]["id"]
        return "number" if kind.startswith(NUMERIC) else None
    if node["class"] == "CAST":
        kind = node["cast_type"]["id"]
        if kind.startswith(NUMERIC):
            return "number"
        return {"DATE": "date", "TIMESTAMP": "date", "INTERVAL": "interval"}.get(kind)
    operation = _operation(node)
    if operation in INTERVALS:
        return "interval"
    if operation in ARITHMETIC:
        kinds = [_kind(child) for child in node["children"]]
        days = operation == "-" and kinds == ["date", "date"]
        return "date" if {"date", "interval"} & {*kinds} and not days else "number"
    if operation in NUMBER_FUNCTIONS or operation in {"year", "month", "day", "date_diff", "datediff", "length"}:
        return "number"
    if operation in {"last_day", "date_trunc", "strptime", "try_strptime", "make_date", "date_add", "to_timestamp"}:
        return "date"
    if operation in CARRIERS:
        return next((kind for kind in map(_kind, node["children"]) if kind), None)
    return None


class Reader:
    """Rewrites expressions over the columns of one block: `texts` and `types` by alias, main alias `row`."""

    def __init__(self, connection: Any, types: dict[str, dict[str, str]], texts: dict[str, Texts]) -> None:
        self.connection = connection
        self.types = types
        self.texts = texts

    def owner(self, column: tuple[str, ...]) -> tuple[str, str] | None:
        """Return (alias, column as the file writes it), or None where no file of the block has it."""
        aliases = [column[0]] if len(column) > 1 and column[0] in self.types else list(self.types)
        wanted = column[-1].lower()
        if len(column) > 2 or (len(column) == 2 and column[0] not in self.types):
            return None
        for alias in aliases:
            for known in self.types[alias]:
                if known.lower() == wanted:
                    return alias, known
        return None

    def read(self, root: dict[str, Any], want: str | None) -> str:
        """Return the SQL of an expression in which columns of text are read as numbers and dates where wanted."""
        return to_sql(self.connection, self._rewrite(root, None if _operation(root) in TEXT_FUNCTIONS else want))

    def _column(self, node: dict[str, Any], want: str | None) -> dict[str, Any]:
        """Wrap a column of text where a number or a date is wanted."""
        found = self.owner(tuple(node["column_names"]))
        if want not in READ_AS or found is None or self.types[found[0]][found[1]] != "VARCHAR":
            return node
        texts = self.texts[found[0]]
        sql = name(*node["column_names"])
        return parse(self.connection, getattr(texts, want)(sql))

    def _rewrite(self, node: Any, want: str | None) -> Any:
        """Walk from the root with what is wanted of each part."""
        if isinstance(node, list):
            return [self._rewrite(child, want) for child in node]
        if not isinstance(node, dict) or "class" not in node:
            return {key: self._rewrite(child, None) for key, child in node.items()} if isinstance(node, dict) else node
        kind = node["class"]
        if kind == "COLUMN_REF":
            return self._column(node, want)
        if kind == "CASE":
            checks = [
                {
                    "when_expr": self._rewrite(check["when_expr"], None),
                    "then_expr": self._rewrite(check["then_expr"], want),
                }
                for check in node["case_checks"]
            ]
            return {**node, "case_checks": checks, "else_expr": self._rewrite(node["else_expr"], want)}
        if kind == "COMPARISON":
            side = self._common([node["left"], node["right"]])
            return {**node, "left": self._rewrite(node["left"], side), "right": self._rewrite(node["right"], side)}
        if kind == "BETWEEN":
            side = self._common([node["input"], node["lower"], node["upper"]])
            return {**node, **{part: self._rewrite(node[part], side) for part in ("input", "lower", "upper")}}
        if kind == "CAST":
            wanted = "date" if node["cast_type"]["id"] in ("DATE", "TIMESTAMP") else None
            return {**node, "child": self._rewrite(node["child"], wanted)}
        if want in COUNTS and _operation(node) in ARITHMETIC | NUMBER_FUNCTIONS:
            return self._cast(self._rewrite(node, "number"), COUNTS[want])
        if _operation(node) in ("+", "-") and len(node["children"]) == 2:
            wants = self._of_sum(node, want)
            sides = [self._rewrite(child, wanted) for child, wanted in zip(node["children"], wants, strict=True)]
            if "days" in wants:  # a date and a number of days: a date with a time would not take them
                place = wants.index("date")
                sides[place] = self._cast(sides[place], "DATE")
            return {**node, "children": sides}
        if _operation(node) in TEXT_FUNCTIONS and want in READ_AS:
            sql = to_sql(self.connection, {**node, "children": self._rewrite(node["children"], None)})
            return parse(self.connection, getattr(self.texts["row"], want)(f"({sql})"))
        if kind in ("FUNCTION", "OPERATOR") and "children" in node:
            return {**node, "children": self._rewrite(node["children"], self._of_children(node, want))}
        return {key: self._rewrite(child, None) for key, child in node.items()}

    def _cast(self, node: dict[str, Any], kind: str) -> dict[str, Any]:
        """Return a syntax tree cast to an SQL type."""
        return parse(self.connection, f"CAST({to_sql(self.connection, node)} AS {kind})")

    def _common(self, sides: list[dict[str, Any]]) -> str | None:
        """Return what a comparison reads its columns as."""
        kinds = [_kind(side) for side in sides]
        return next((kind for kind in kinds if kind in ("number", "date")), None)

    def _of_sum(self, node: dict[str, Any], want: str | None) -> tuple[str | None, str | None]:
        """Return what the two sides of a sum or difference are: a day and days, two days, or two numbers."""
        left, right = map(_kind, node["children"])
        if "interval" in (left, right):
            return ("date", None) if right == "interval" else (None, "date")
        if want == "date" or (_operation(node) == "+" and "date" in (left, right)):
            return ("days", "date") if right == "date" and left != "date" else ("date", "days")
        if "date" in (left, right):
            return ("date", "days") if right == "number" else ("date", "date")
        wanted = want if want in NUMBERS else "number"
        return wanted, wanted

    def _of_children(self, node: dict[str, Any], want: str | None) -> str | None:
        """Return what a function or operator wants of its arguments."""
        operation = _operation(node)
        if node["class"] == "OPERATOR":
            if node["type"] in ("COMPARE_IN", "COMPARE_NOT_IN"):
                return self._common(node["children"])
            return want if node["type"] == "OPERATOR_COALESCE" else None
        if operation in ARITHMETIC:
            return want if want in NUMBERS else "number"
        if operation in WHOLE_FUNCTIONS | INTERVALS:
            return "whole" if operation in WHOLE_FUNCTIONS else "days"
        if operation in NUMBER_FUNCTIONS:
            return want if want in NUMBERS else "number"
        if operation in CARRIERS:
            return want or _kind(node)
        return "date" if operation in DATE_FUNCTIONS else None

"""One mapping block as one SQL query: raw rows in, canonical rows out, with every broken rule of the contract.

    SELECT <canonical columns>, <attributes>, known_on, _file, _row, _left_out, _broken, _rules, _text FROM raw AS "row"

A column's name alone is cast to the contract's type as the file's format says (dates, decimal mark); any other
expression runs inside TRY, so that a value it cannot handle breaks a rule and not the run (the engine must not hoist
common parts out of TRY: `disabled_optimizers = 'common_subexpressions'`). Nothing is rounded silently:
a scale beyond the contract's is a broken rule. Every row is told whether it is broken; the rules by name and the
original text follow only for the few rows that are. Pure: text and syntax trees in, SQL text out.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from dataclasses import dataclass, field, replace
from typing import Any

from features.casting import Value, broken, cast
from features.errors import Problem
from features.expressions import (
    Reader,
    Relation,
    SqlFault,
    columns_of,
    is_plain,
    multiplies,
    name,
    parse,
)  # fmt: skip
from features.mapping import Block, Join, Mapping
from features.tables import DATE, EARLIEST, LATEST, MONEY, RATIO, TEXT, WHOLE, Contract

WANT = {DATE: "date", MONEY: "money", WHOLE: "money", RATIO: "number", TEXT: None}
AHEAD = 31  # days: how far a booking may be dated ahead of the last day that its delivery covers
FILE_ROW = "file_row"  # in a mapping's SQL: the number of the row in its file, from 1
ALWAYS = dt.date(1900, 1, 1)  # when rows of a static table without dates became known


@dataclass
class Staged:
    """A compiled block: the query, the output columns, and what was wrong with the mapping."""

    sql: str = ""
    columns: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    windowed: bool = False


def output_columns(contract: Contract, blocks: list[Block]) -> dict[str, str]:
    """Return column -> type of a canonical table: the contract's, the attributes of all blocks, known_on."""
    columns = {column: spec.type for column, spec in contract.columns.items()}
    numeric = {attribute: RATIO for block in blocks for attribute in block.attributes.numeric}
    categorical = {attribute: TEXT for block in blocks for attribute in block.attributes.categorical}
    return {**columns, **dict(sorted(numeric.items())), **dict(sorted(categorical.items())), "known_on": DATE}


def _mentions(block: Block, word: str) -> bool:
    """Tell whether any expression of a block speaks of a column."""
    attributes = [*block.attributes.numeric.values(), *block.attributes.categorical.values()]
    return any(word in sql for sql in [*block.columns.values(), *attributes, block.where or ""])


class Stage:
    """Compiles one block over its relations; collects problems instead of raising at the first."""

    def __init__(
        self,
        connection: Any,
        mapping: Mapping,
        table: str,
        block: Block,
        place: str,
        relations: dict[str, Relation],
        *,
        has_deliveries: bool = False,
    ) -> None:
        self.connection, self.mapping, self.block, self.place = connection, mapping, block, place
        self.contract: Contract = mapping.contract(table)
        self.columns = output_columns(self.contract, mapping.tables[table])
        self.relations, self.has_deliveries = relations, has_deliveries
        left = [join.alias for join in block.joins if join.kind != "semi"]
        self.visible = {alias: relation for alias, relation in relations.items() if alias == "row" or alias in left}
        self.numbered = FILE_ROW not in relations["row"].types and _mentions(block, FILE_ROW)
        if self.numbered:
            main = relations["row"]
            self.visible["row"] = replace(main, types={**main.types, FILE_ROW: "BIGINT"})
        self.dated: dict[str, str] = {}  # alias of an asof join -> what it reads and its condition
        self.problems: list[Problem] = []
        self.inputs: dict[str, str] = {}  # the innermost columns: what the file says, and each expression inside TRY

    def _input(self, sql: str) -> str:
        """Return the name of an innermost column that holds `sql`."""
        return self.inputs.setdefault(sql, f"_in{len(self.inputs)}")

    def _reader(self, relations: dict[str, Relation]) -> Reader:
        types = {alias: relation.types for alias, relation in relations.items()}
        return Reader(self.connection, types, {alias: relation.texts for alias, relation in relations.items()})

    def _tree(self, where: str, sql: str, relations: dict[str, Relation]) -> dict[str, Any] | None:
        """Parse an expression and check that its columns exist; note what is wrong and return None."""
        place = f"{self.place}.{where}"
        for alias, relation in relations.items():
            if sql.strip() in relation.types:  # a file's column by its very name, whatever characters it has
                sql = name(alias, sql.strip())
                break
        try:
            tree = parse(self.connection, sql)
        except SqlFault as fault:
            self.problems.append(Problem(place, "one SQL expression (DuckDB)", str(fault)[:200], "Correct the SQL."))
            return None
        reader = self._reader(relations)
        missing = [column for column in columns_of(tree) if reader.owner(column) is None]
        have = [column for relation in relations.values() for column in relation.types]
        if missing and re.fullmatch(r"[\w ./%-]+", sql) and difflib.get_close_matches(sql, have, 1, 0.7):
            missing = [(sql,)]  # a column's bare name with spaces, misspelt
        for column in missing:
            near = difflib.get_close_matches(column[-1], have, 1, 0.5)
            spelled = near[0] if near and near[0].isidentifier() else f'"{near[0]}"' if near else ""
            remedy = f"Did you mean {spelled}?" if near else "Name one of the file's columns."
            self.problems.append(
                Problem(
                    place,
                    f"SQL over the file's columns ({', '.join(have[:60])})",
                    f"no column {'.'.join(column)}",
                    remedy,
                )
            )
        return None if missing else tree

    def _probe(self, where: str, sql: str) -> str | None:
        """Return the SQL type of a readable expression, or note why the engine refuses it."""
        import duckdb

        try:
            rows = self.connection.execute(f"DESCRIBE SELECT {sql} AS probe FROM {self._source()}").fetchall()
        except duckdb.Error as error:
            found = " ".join(str(error).split("LINE 1")[0].split())[:200]
            self.problems.append(
                Problem(f"{self.place}.{where}", "SQL that DuckDB can bind", found, "Correct the SQL.")
            )
            return None
        return str(rows[0][1])

    def _source(self) -> str:
        """Return the FROM clause: the main file as `row`, and what is joined to it from the left."""
        main = self.relations["row"].name
        if self.numbered:
            number = f"row_number() OVER (PARTITION BY __file ORDER BY __row) AS {FILE_ROW}"
            main = f"(SELECT *, {number} FROM {main})"
        parts = [f'{main} AS "row"']
        for join in self.block.joins:
            if join.kind == "left":  # lines that stand twice in a file without dates are one
                relation = self.relations[join.alias]
                columns = ", ".join(name(column) for column in relation.types)
                distinct = f"(SELECT DISTINCT {columns} FROM {relation.name})"
                parts.append(f"LEFT JOIN {distinct} AS {name(join.alias)} ON ({join.on})")
            elif join.kind == "asof" and join.alias in self.dated:
                parts.append(self.dated[join.alias])
        return " ".join(parts)

    def _asof(self, number: int, join: Join) -> None:
        """Write an asof join: of the rows that match, the newest `dated` among those known at the row's date."""
        place, relation = f"joins[{number}]", self.relations[join.alias]
        alone = {join.alias: relation}
        condition = self._tree(f"{place}.on", join.on, {**self.visible, join.alias: relation})
        at = self._tree(f"{place}.at", join.at or "", self.visible)
        dated = self._tree(f"{place}.dated", join.dated or "", alone)
        known = self._tree(f"{place}.known_on", join.known_on or join.dated or "", alone)
        if not (condition and at and dated and known):
            return
        keys = [column[-1] for column in columns_of(condition) if column[0] == join.alias]
        if not keys:
            must = f"equalities with columns of {join.alias}"
            self.problems.append(Problem(f"{self.place}.{place}.on", must, "none", f"Write row.x = {join.alias}.x."))
            return
        reader = self._reader(alone)
        day, learned = (f"TRY(CAST({reader.read(tree, 'date')} AS DATE))" for tree in (dated, known))
        when = f"TRY(CAST({self._reader(self.visible).read(at, 'date')} AS DATE))"
        key = ", ".join(name(column) for column in dict.fromkeys(keys))
        columns = ", ".join(name(column) for column in relation.types)
        newest = f"""
            SELECT {columns}, _from, _dated FROM (
                SELECT {columns}, {day} AS _dated, greatest(_dated, {learned}) AS _from
                FROM {relation.name} AS {name(join.alias)} WHERE _from IS NOT NULL)
            QUALIFY row_number() OVER (PARTITION BY {key}, _from ORDER BY _dated DESC, {columns}) = 1
                AND _dated >= max(_dated) OVER (PARTITION BY {key} ORDER BY _from)"""
        if join.within is not None:  # once a row is too old, one without values follows it
            held = [column.lower() for column in keys]
            ended = ", ".join(name(c) if c.lower() in held else f"NULL AS {name(c)}" for c in relation.types)
            newest = f"""
            WITH newest AS ({newest}), following AS (
                SELECT *, _dated + {join.within} AS _end, lead(_from) OVER (PARTITION BY {key} ORDER BY _from) AS _next
                FROM newest)
            SELECT {columns}, _from FROM following WHERE _from < _end
            UNION ALL SELECT {ended}, greatest(_end, _from) FROM following
            WHERE _next IS NULL OR _next > greatest(_end, _from)"""
        self.dated[join.alias] = f"""ASOF LEFT JOIN ({newest}
            ) AS {name(join.alias)} ON ({join.on}) AND {when} >= {name(join.alias)}._from"""

    def _value(self, where: str, column: str, sql: str, target: str) -> Value:
        """Compile one column's expression."""
        tree = self._tree(where, sql, self.visible)
        if tree is None:
            return Value("NULL")
        reader = self._reader(self.visible)
        if is_plain(tree):
            alias, raw = reader.owner(tuple(tree["column_names"])) or ("row", sql)
            relation = self.visible[alias]
            return cast(column, target, self._input(name(alias, raw)), relation.types[raw], relation.texts)
        readable = reader.read(tree, WANT[target])
        kind = self._probe(where, readable)
        if kind is None:
            return Value("NULL")
        wider = reader.read(tree, "rate") if WANT[target] == "money" and multiplies(tree) else readable
        told = f"TRY([{readable}])"  # a list of one: null only where the expression failed
        held = self._input(told if wider == readable else f"coalesce({told}, TRY([CAST({wider} AS {kind})]))")
        value = cast(column, target, f"{held}[1]", kind, self.visible["row"].texts)
        return Value(value.sql, ((f"sql:{column}", f"{held} IS NULL"), *value.faults))

    def _condition(self) -> tuple[str, list[tuple[str, str]]]:
        """Return SQL that says whether the row is left out (where, semi joins), and the faults of that SQL."""
        kept, faults = [], []
        if self.block.where:
            tree = self._tree("where", self.block.where, self.visible)
            readable = self._reader(self.visible).read(tree, None) if tree else "true"
            kind = self._probe("where", readable) if tree else "BOOLEAN"
            if kind not in (None, "BOOLEAN"):
                self.problems.append(Problem(f"{self.place}.where", "a condition", f"SQL of type {kind}", "Compare."))
            elif kind:
                held = self._input(f"TRY([{readable}])")
                kept.append(f"coalesce({held}[1], {held} IS NULL)")
                faults.append(("sql:where", f"{held} IS NULL"))
        for number, join in enumerate(self.block.joins):
            both = {**self.visible, join.alias: self.relations[join.alias]}
            if self._tree(f"joins[{number}].on", join.on, both) and join.kind == "semi":
                relation = self.relations[join.alias].name
                kept.append(self._input(f"EXISTS (SELECT 1 FROM {relation} AS {name(join.alias)} WHERE ({join.on}))"))
        return (f"NOT ({' AND '.join(kept)})" if kept else "false"), faults

    def _known_on(self) -> str | None:
        """Return SQL of known_on, or note that the block says nothing about when its rows became known."""
        contract, fallback = self.contract, None
        if self.mapping.as_of:
            fallback = f"DATE '{self.mapping.as_of - dt.timedelta(days=1)}'"
        elif self.block.static:
            fallback = f"DATE '{ALWAYS}'"
        delivered = "_delivered_on"
        if "known_on" in self.block.columns:
            base = "_known_on"
        elif contract.event in self.block.columns:
            base = f"{name(contract.event)} + {self.block.known_after + contract.event_lag_days}"
        elif fallback is None and not self.has_deliveries:
            self.problems.append(
                Problem(
                    self.place, f"dated: `known_on` or `{contract.event}` under columns",
                    "nothing that says when a row became known",
                    "Map one of them, or declare `static: true`, or give the source one `as_of`.",
                )
            )  # fmt: skip
            return None
        else:
            base = "NULL::DATE"
        fallbacks = [base, *([fallback] if fallback else []), delivered]
        plain = f"coalesce({', '.join(fallbacks)})"
        if self.mapping.live_since and contract.name != "observations":  # a decision states what was known at it
            late = f"{delivered} >= DATE '{self.mapping.live_since}'"
            return f"CASE WHEN {late} THEN greatest({plain}, {delivered}) ELSE {plain} END"
        return plain

    def compile(self) -> Staged:
        """Return the block's query in both forms, or its problems."""
        contract, block = self.contract, self.block
        values: dict[str, Value] = {}
        for number, join in enumerate(block.joins):
            if join.kind == "asof":
                self._asof(number, join)
        for column, spec in contract.columns.items():
            sql = block.columns.get(column)
            values[column] = self._value(f"columns.{column}", column, sql, spec.type) if sql else Value(
                f"CAST({spec.default or 'NULL'} AS {spec.type})"
            )  # fmt: skip
            if sql and spec.default:
                values[column] = Value(f"coalesce({values[column].sql}, {spec.default})", values[column].faults)
        attributes = {**block.attributes.numeric, **block.attributes.categorical}
        for column, target in self.columns.items():
            if column in contract.columns or column == "known_on":
                continue
            sql = attributes.get(column)
            kind = "numeric" if target == RATIO else "categorical"
            where = f"attributes.{kind}.{column}"
            values[column] = self._value(where, column, sql, target) if sql else Value(f"CAST(NULL AS {target})")
        if "known_on" in block.columns:
            said = self._value("columns.known_on", "_known_on", block.columns["known_on"], DATE)
            faults = tuple((rule.replace("_known_on", "known_on"), condition) for rule, condition in said.faults)
            values["_known_on"] = replace(said, faults=faults)
        left_out, broken_sql = self._condition()
        known_on = self._known_on()
        if self.problems or known_on is None:
            return Staged(problems=self.problems)
        return Staged(self._select(values, left_out, broken_sql, known_on), self.columns, windowed=self._windowed())

    def _windowed(self) -> bool:
        """Tell whether the query counts equal rows of a file, and so needs all of them before it gives the first."""
        made = self.contract.generated_key
        return self.numbered or not self.contract.key or bool(made and made not in self.block.columns)

    def _rules(self) -> list[tuple[str, str]]:
        """Return (rule, condition that breaks it) over the canonical columns."""
        plausible = f"known_on >= {EARLIEST} AND known_on < {LATEST}"
        rules = [("required:known_on", "known_on IS NULL"), ("range:known_on", f"NOT ({plausible})")]
        for column, spec in self.contract.columns.items():
            undated = self.block.static and column == self.contract.event and column not in self.block.columns
            if (
                spec.required
                and not undated
                and (column in self.block.columns or column != self.contract.generated_key)
            ):
                rules.append((f"required:{column}", f"{name(column)} IS NULL"))
            kept = spec.rule(column)
            if kept and column in self.block.columns:
                rules.append((f"range:{column}", f"NOT ({kept})"))
        rules += [(rule.name, f"NOT ({rule.condition})") for rule in self.contract.rules]
        return rules + self._texts() + self._ahead()

    def _texts(self) -> list[tuple[str, str]]:
        """Return the rules of texts: no NUL and no byte order mark inside, and no identifier longer than 64 KiB."""
        rules = []
        odd = any(relation.odd for relation in self.visible.values())
        for column, target in self.columns.items():
            if target != TEXT or column not in {*self.block.columns, *self.block.attributes.categorical}:
                continue
            value, spec = name(column), self.contract.columns.get(column)
            parts = [f"contains({value}, chr(0))", f"contains({value}, chr(65279))"] if odd else []
            parts += [f"strlen({value}) > 65536"] if spec and spec.required else []
            rules += [(f"text:{column}", " OR ".join(parts))] if parts else []
        return rules

    def _ahead(self) -> list[tuple[str, str]]:
        """Return the rule that what has happened did not happen long after the delivery's last day."""
        if not (self.has_deliveries and self.contract.happened and self.contract.event in self.block.columns):
            return []
        return [("after_delivery", f"{name(self.contract.event)} > _delivered_on + {AHEAD}")]

    def _select(self, values: dict[str, Value], left_out: str, faults: list[tuple[str, str]], known_on: str) -> str:
        """Write the query in layers, so that nothing is computed twice: what is read, casts, faults, the contract.

        Which rules a row breaks, and its original text, are worked out for the rows that break one.
        """
        faults = faults + [fault for value in values.values() for fault in value.faults]
        read = [f"{sql} AS {alias}" for sql, alias in self.inputs.items()]
        read += ['"row".__file AS _file', '"row".__row AS _row', '"row".__delivered_on AS _delivered_on']
        fields = ", ".join(f'{name(column)} := "row".{name(column)}' for column in self.relations["row"].types)
        read.append(f"struct_pack({fields}) AS _raw")
        typed = [f"{value.sql} AS {name(column)}" for column, value in values.items()]
        inner = f"SELECT *, {', '.join(typed)} FROM (SELECT {', '.join(read)} FROM {self._source()})"
        middle = f"SELECT *, CAST({known_on} AS DATE) AS known_on, {left_out} AS _left_out FROM ({inner})"
        rules = faults + self._rules()
        judged = f"SELECT *, {broken(rules, detail=False)} AS _broken FROM ({middle})"
        given = [name(column) for column in self.columns if column != "known_on"]
        key = self.contract.generated_key
        made = key if key and key not in self.block.columns else None
        content = ", ".join(name(column) for column in self.columns if column not in (made, "known_on"))
        number = f"row_number() OVER (PARTITION BY _file, _left_out, _broken, {content} ORDER BY known_on)"
        made_key = f"md5(CAST(ROW({content}) AS VARCHAR)) || '-' || {number} AS {name(key or '')}"
        listed = [made_key if column == name(made or "") else column for column in given]
        count = "" if self.contract.key else f", {number} AS _n"
        faulty = "_broken AND NOT _left_out"
        told = f"CASE WHEN {faulty} THEN {broken(rules, detail=True)} END AS _rules"
        text = f"CASE WHEN {faulty} THEN {self.relations['row'].original('_raw', '_file')} END AS _text"
        return (
            f"SELECT {', '.join(listed)}, known_on, _file, _row, _left_out, _broken, {told}, {text}{count} "
            f"FROM ({judged})"
        )

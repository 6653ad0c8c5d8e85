"""The mapping file: how a lender's raw files become canonical tables; no Python, one file a source.

`parse_mapping(text, where)` gives a frozen `Mapping` or refuses (exit code 4) with all faults together.
features/layout.py lays it out for its files, features/schema.py makes the JSON Schema that editors complete from.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from features.errors import ConfigurationRefused, Problem
from features.tables import contract_of

PAID = {"paid_on": "paid_on", "amount_paid": "amount", "payment_id": "payment_id", "paid_known_on": "known_on"}
NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
ATTRIBUTE = re.compile(r"[^\W\d_A-Z]\w{0,62}")  # letters of any script


def _as_list(value: Any) -> Any:
    """Let a single value stand for a list of one."""
    return value if isinstance(value, list) else [value]


def _as_text(value: Any) -> Any:
    """Let YAML numbers and booleans stand for the SQL text that they are."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, (int, float, dt.date)) else value


def _as_days(value: Any) -> Any:
    """Read `3`, `3 days` or `1 day` as a number of days."""
    match = re.fullmatch(r"\s*(-?\d+)\s*(days?)?\s*", str(value))
    if not match:
        raise ValueError("a number of days such as `3 days`")
    return int(match[1])


def snake(text: str) -> str:
    """Return a column's name as a lower-case name: `MonthlyIncome` is monthly_income, `A/B (%)` is a_b, 年龄 stays."""
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    name = re.sub(r"[\W_]+", "_", parted.lower()).strip("_")[:60]
    return name if ATTRIBUTE.fullmatch(name) else f"column_{name}".rstrip("_")


def _by_name(value: Any) -> Any:
    """Let a list of the file's columns stand for lower-case name: column; a glob stays for features/layout.py."""
    return {name if is_glob(name) else snake(str(name)): name for name in value} if isinstance(value, list) else value


Strings = Annotated[list[str], BeforeValidator(_as_list, json_schema_input_type=str | list[str])]
Sql = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | float | bool), Field(min_length=1)]
Days = Annotated[int, BeforeValidator(_as_days, json_schema_input_type=int | str)]
Named = Annotated[dict[str, Sql], BeforeValidator(_by_name, json_schema_input_type=dict[str, Sql] | list[str])]


class _Strict(BaseModel):
    """A group of keys: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Format(_Strict):
    """How a file is written; gzip (.gz) and zstd (.zst) are recognised by the file's name."""

    type: Literal["csv", "parquet", "jsonl", "arff", "xlsx"] = "csv"
    delimiter: str = Field(default=",", min_length=1, max_length=4)
    quote: str = Field(default='"', max_length=1)
    escape: str | None = Field(default=None, max_length=1, description="null: the quote itself, doubled")
    encoding: str = Field(default="utf-8", description="any Python codec: utf-8, utf-16, gb18030, latin-1, ...")
    decimal: Literal[".", ","] = "."
    thousands: str = Field(default="", max_length=1, description="digit grouping mark, removed before numbers are read")
    strip: str = Field(default="", description="characters removed before numbers are read: currency signs, %, spaces")
    dates: Strings = Field(
        default_factory=list,
        description="strptime formats, or epoch, epoch_ms (since 1970), excel (days of a spreadsheet); none: ISO",
    )
    nulls: list[str] = Field(default_factory=list, description="texts that mean null, beside the empty one")
    header: bool = True
    names: list[str] = Field(default_factory=list, description="column names of a file without a header")
    skip: int = Field(default=0, ge=0, description="lines (rows of a sheet) before the header")
    sheet: str | None = Field(default=None, description="xlsx: name of the sheet; null: the first")


class Join(_Strict):
    """A second file beside the main one (alias `row`).

    `left` adds its columns, `semi` keeps rows that occur in it, `asof` adds the columns of its newest row known at `at`
    (exchange rates, prices, ratings: `dated` is what a row is about, `known_on` when it was known, by default then).
    """

    files: Strings
    format: Format = Format()
    alias: str = Field(alias="as", pattern=r"^[a-z][a-z0-9_]*$")
    on: Sql
    kind: Literal["left", "semi", "asof"] = "left"
    static: bool = Field(
        False, description="states that a file without dates, joined by `left` or `semi`, does not change with time"
    )
    at: Sql | None = Field(default=None, description="asof: the row's date, over the main file's columns")
    dated: Sql | None = Field(default=None, description="asof: the date of the joined file's row")
    known_on: Sql | None = Field(default=None, description="asof: when the joined file's row was known; null: `dated`")
    within: Days | None = Field(
        default=None, description="asof: days after `dated` from which a row is too old to count"
    )

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="after")
    def _declared(self) -> Self:
        if self.kind != "asof" and not self.static:
            raise ValueError("declared `static: true`: what is joined has no date of its own, so it must not change")
        if self.within is not None and (self.kind != "asof" or self.within < 1):
            raise ValueError("`within` of at least one day, for an `asof` join alone")
        if (self.kind == "asof") != bool(self.at and self.dated):
            raise ValueError("an `asof` join with `at` and `dated`, or another without them")
        return self


def is_glob(name: Any) -> bool:
    """Tell whether an attribute stands for several columns, as `Attr*` does."""
    return isinstance(name, str) and "*" in name


class Attributes(_Strict):
    """Columns beyond the contract that pass through: numeric become DOUBLE, categorical VARCHAR.

    Either name: SQL expression, or a list of the file's columns (`Attr*` for all that begin so and are not used).
    """

    numeric: Named = Field(default_factory=dict)
    categorical: Named = Field(default_factory=dict)


class Block(_Strict):
    """One reading of some files into one canonical table."""

    files: Strings
    format: Format = Format()
    columns: dict[str, Sql]
    attributes: Attributes = Attributes()
    known_after: Days = Field(default=0, description="days from the event to our knowledge of it")
    where: Sql | None = None
    static: bool = Field(False, description="states that rows without dates do not change with time")
    joins: list[Join] = Field(default_factory=list)
    conflicts: Literal["quarantine", "later_file"] = Field(
        default="quarantine",
        description="same key and known_on, other content: all quarantined, or the later file wins (for the table)",
    )
    repeat: list[dict[str, Any]] = Field(default_factory=list, description="the block once for each; ${name} replaced")

    def repeats(self) -> list[Block]:
        """Return the blocks that `repeat` stands for: itself where there is none."""
        if not self.repeat:
            return [self]
        blocks = []
        for values in self.repeat:
            filled = self.model_dump(exclude={"repeat", "joins", "format", "files"})
            for name, value in values.items():
                filled = _replace(filled, "${" + name + "}", str(value))
            blocks.append(
                Block.model_construct(
                    files=self.files, format=self.format, joins=self.joins, repeat=[],
                    attributes=Attributes.model_construct(**filled.pop("attributes")), **filled,
                )
            )  # fmt: skip
        return blocks


def _replace(value: Any, placeholder: str, text: str) -> Any:
    """Replace a placeholder in every text of nested data."""
    if isinstance(value, str):
        return value.replace(placeholder, text)
    if isinstance(value, dict):
        return {key: _replace(item, placeholder, text) for key, item in value.items()}
    return value


Blocks = Annotated[list[Block], BeforeValidator(_as_list, json_schema_input_type=Block | list[Block])]


class Mapping(_Strict):
    """One source: its name, currency, dates and canonical tables."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    currency: str = Field(pattern=r"^[A-Z]{3}$", description="ISO 4217")
    description: str = ""
    caveats: tuple[str, ...] = Field(
        default=(), description="what a reader must know of this data before believing a figure; printed in the report"
    )
    as_of: dt.date | None = Field(
        default=None, description="an undated source's one date: its rows are known the day before"
    )
    live_since: dt.date | None = Field(
        default=None, description="deliveries from this day on: known no earlier than delivered"
    )
    tables: dict[str, Blocks] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _observed_on_the_one_date(cls, raw: Any) -> Any:
        """Let an undated source's observations stand on its one `as_of` where they do not say otherwise."""
        tables = raw.get("tables") if isinstance(raw, dict) else None
        observed = tables.get("observations") if isinstance(tables, dict) else None
        if not isinstance(raw, dict) or not isinstance(tables, dict) or not raw.get("as_of") or not observed:
            return raw
        blocks = [
            {**block, "columns": {"as_of": f"DATE '{raw['as_of']}'", **block["columns"]}}
            if isinstance(block, dict) and isinstance(block.get("columns"), dict)
            else block
            for block in (observed if isinstance(observed, list) else [observed])
        ]
        return {**raw, "tables": {**tables, "observations": blocks}}

    def later_file_wins(self, table: str) -> bool:
        """Tell whether, of two rows with one key and `known_on`, that of the later file stays."""
        return any(block.conflicts == "later_file" for block in self.tables[table])

    def contract(self, table: str) -> Any:
        """Return the contract of one of the tables."""
        return contract_of(table, {column for block in self.tables[table] for column in block.columns})


def _contract_faults(mapping: Mapping, where: str) -> list[Problem]:
    """Return what the mapping's tables break of their contracts: names, missing columns, missing dates."""
    problems = []
    for table, blocks in mapping.tables.items():
        if not NAME.fullmatch(table):
            problems.append(
                Problem(f"{where}: tables.{table}", "a lower-case name", "other characters", "Rename the table.")
            )
            continue
        contract = mapping.contract(table)
        known = {*contract.columns, "known_on"}
        split = set(PAID) if table == "instalments" else set()
        for number, block in enumerate(blocks):
            place = f"{where}: tables.{table}[{number}]"
            for column in block.columns:
                if column not in known | split:
                    near = difflib.get_close_matches(column, sorted(known), 1)
                    problems.append(
                        Problem(
                            f"{place}.columns.{column}",
                            f"one of {', '.join(sorted(known))}",
                            "an unknown column",
                            f"Write {near[0]}, or name it under `attributes`."
                            if near
                            else "Name it under `attributes`.",
                        )
                    )
            problems += [
                Problem(f"{place}.columns.{column}", f"given: {contract.columns[column].sentence}", "no such key",
                        f"Add `{column}: <SQL expression over the file's columns>`.")
                for column in contract.required()
                if column not in block.columns and not (block.static and column == contract.event)
            ]  # fmt: skip
            names = [name for name in [*block.attributes.numeric, *block.attributes.categorical] if not is_glob(name)]
            problems += [
                Problem(f"{place}.attributes.{name}", "a lower-case name that is no canonical column, once",
                        "a name that cannot be used", "Rename the attribute.")
                for name in names
                if not ATTRIBUTE.fullmatch(name) or name != name.lower() or name in known or names.count(name) > 1
            ]  # fmt: skip
            problems += _repeat_faults(block, place)
    return problems


def _repeat_faults(block: Block, place: str) -> list[Problem]:
    """Return the placeholders of a block that some entry of its `repeat` does not give."""
    text = " ".join(
        [*block.columns.values(), *block.attributes.numeric.values(), *block.attributes.categorical.values(),
         block.where or ""]
    )  # fmt: skip
    used = set(re.findall(r"\$\{(\w+)\}", text))
    given: list[set[str]] = [set(entry) for entry in block.repeat] or [set()]
    missing = sorted(used - given[0].intersection(*given))
    if missing:
        return [Problem(f"{place}.repeat", "a value for every placeholder in each entry",
                        f"none for {', '.join(missing)}",
                        "Add it to every entry, or remove the placeholder.")]  # fmt: skip
    return []


def _pydantic_problem(fault: Any, where: str) -> Problem:
    """Turn one fault of pydantic into a problem that names the nearest known key."""
    path = [part for part in fault["loc"] if part != "function-before"]
    place = f"{where}: {'.'.join(str(part) for part in path)}"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(path)
        near = difflib.get_close_matches(str(path[-1]), known, 1)
        remedy = f"Did you mean {near[0]}?" if near else "Remove it."
        return Problem(place, f"one of {', '.join(known)}", "an unknown key", remedy)
    if fault["type"] == "missing":
        return Problem(place, "given", "no such key", "Add it.")
    must = fault["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    value = fault["input"]
    found = repr(value)[:80] if isinstance(value, (str, int, float, bool)) else f"a {type(value).__name__}"
    return Problem(place, must[:1].lower() + must[1:], found, "Correct it.")


def _known_keys(path: list[Any]) -> list[str]:
    """Return the keys that may stand where `path` ends."""
    groups: dict[str, type[BaseModel]] = {"format": Format, "attributes": Attributes}
    parents = [str(part) for part in path[:-1] if not isinstance(part, int)]
    if not parents:
        model: type[BaseModel] = Mapping
    elif parents[-1] in groups:
        model = groups[parents[-1]]
    else:
        model = Join if parents[-1] == "joins" else Block
    return [field.alias or name for name, field in model.model_fields.items()]


class _UniqueKeys(yaml.SafeLoader):
    """YAML whose mappings may not give a key twice (one would be lost without a word); `on` is text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 (PyYAML declares it so)
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _unique(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    for position, (key_node, _) in enumerate(node.value):
        if keys[position] in keys[:position]:
            line = key_node.start_mark.line + 1
            raise yaml.YAMLError(f"the key {keys[position]!r} is given twice, line {line}")
    return loader.construct_mapping(node, deep=True)


_UniqueKeys.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.IGNORECASE), list("tTfF")
)
_UniqueKeys.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique)


def parse_mapping(text: str, where: str) -> Mapping:
    """Read a mapping from YAML text; `where` names the file in messages.

    Refuses (exit code 4) with every fault at once: bad YAML, unknown keys, wrong values, columns that no contract has,
    required columns that are missing.
    """
    try:
        raw = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        found = " ".join(str(error).split())[:200]
        raise ConfigurationRefused(Problem(where, "YAML", found, "Mend the file.")) from None
    if not isinstance(raw, dict):
        raise ConfigurationRefused(
            Problem(where, "a mapping of keys", type(raw).__name__, "See data/sources/berka.yaml.")
        )
    try:
        mapping = Mapping.model_validate(raw)
    except ValidationError as error:
        raise ConfigurationRefused([_pydantic_problem(fault, where) for fault in error.errors()]) from None
    problems = _contract_faults(mapping, where)
    if problems:
        raise ConfigurationRefused(problems)
    return mapping

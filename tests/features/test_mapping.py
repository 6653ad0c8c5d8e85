"""The mapping format: what is read, what is refused, and how a mapping's SQL sees raw text."""

import json

import duckdb
import pytest
import yaml
from workspaces import ROOT

from features.errors import ConfigurationRefused
from features.expressions import Reader, SqlFault, Texts, columns_of, parse
from features.layout import expanded, split_payments
from features.mapping import Block, _UniqueKeys, parse_mapping
from features.schema import mapping_schema, schema_text

GOOD = """
name: a
currency: EUR
tables:
  transactions:
    - files: t.csv
      columns: {customer_id: id, event_on: day, amount: value}
      attributes: {numeric: [weight], categorical: {colour: upper(c)}}
      known_after: 3 days
    - files: [u.csv, v.csv]
      columns: {customer_id: id, event_on: day, amount: "${sign} value"}
      repeat: [{sign: +}, {sign: "-"}]
  visits:
    files: w.csv
    columns: {customer_id: id, event_on: day}
"""


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigurationRefused) as refusal:
        parse_mapping(text, "a.yaml")
    return [problem.sentence() for problem in refusal.value.problems]


def test_a_mapping_is_read():
    mapping = parse_mapping(GOOD, "a.yaml")
    first, second = mapping.tables["transactions"]
    assert first.known_after == 3
    assert first.attributes.numeric == {"weight": "weight"}
    assert second.files == ["u.csv", "v.csv"]
    assert [block.columns["amount"] for block in second.repeats()] == ["+ value", "- value"]
    assert mapping.contract("visits").key == ()


def test_a_block_without_repeat_is_itself():
    block = parse_mapping(GOOD, "a.yaml").tables["visits"][0]
    assert isinstance(block, Block)
    assert block.repeats() == [block]


def test_every_fault_is_told_at_once_and_near_names_are_offered():
    text = (
        GOOD.replace("currency", "curency")
        .replace("known_after: 3 days", "known_afer: 3 days")
        .replace("files: w.csv", "")
    )
    said = problems(text)
    assert any("curency" in line and "Did you mean currency?" in line for line in said)
    assert any("known_afer" in line and "Did you mean known_after?" in line for line in said)
    assert any("tables.visits" in line and "files" in line for line in said)


def test_columns_must_be_of_the_contract_and_required_ones_given():
    said = problems(GOOD.replace("event_on: day, amount: value}", "event_on: day, amuont: value}"))
    assert any("amuont" in line and "Write amount" in line for line in said)
    assert any("columns.amount" in line and "given" in line for line in said)


def test_a_placeholder_without_a_value_is_refused():
    assert any("none for sign" in line for line in problems(GOOD.replace('[{sign: +}, {sign: "-"}]', "[{sgn: +}]")))


@pytest.mark.parametrize("kind", ["left", "semi"])
def test_a_join_without_dates_must_be_declared_static(kind):
    join = f"\n      joins: [{{files: d.csv, as: d, on: row.id = d.id, kind: {kind}}}]"
    said = problems(GOOD.replace("known_after: 3 days", "known_after: 3 days" + join))
    assert any("static: true" in line for line in said)
    parse_mapping(
        GOOD.replace("known_after: 3 days", "known_after: 3 days" + join.replace("}]", ", static: true}]")), "a.yaml"
    )


@pytest.mark.parametrize("text", ["", "- a", "a: [", "name: a\nname: b"])
def test_what_is_no_mapping_is_refused(text):
    assert problems(text)


def test_the_schema_accepts_a_mapping_and_refuses_unknown_keys():
    import jsonschema
    import yaml

    schema = json.loads(json.dumps(mapping_schema()))
    value = yaml.safe_load("{name: a, currency: EUR, tables: {visits: [{files: [w.csv], columns: {customer_id: id}}]}}")
    jsonschema.validate(value, schema)
    value["tables"]["visits"][0]["colums"] = {}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, schema)


# --- expressions ---------------------------------------------------------------------------------------------------

RAW = {"amount": "VARCHAR", "way": "VARCHAR", "date": "VARCHAR", "n": "VARCHAR", "x": "DOUBLE", "a.b": "VARCHAR"}


def value(sql: str, want: str | None = None, **row: str):
    """Evaluate a mapping's expression over one raw row."""
    connection = duckdb.connect()
    reader = Reader(connection, {"row": RAW}, {"row": Texts(",", ".", ("%d.%m.%y",))})
    columns = ", ".join(
        f'CAST({row.get(name)!r} AS {kind}) AS "{name}"' if name in row else f'CAST(NULL AS {kind}) AS "{name}"'
        for name, kind in RAW.items()
    )
    text = reader.read(parse(connection, sql), want)
    return connection.execute(f'SELECT CAST({text} AS VARCHAR) FROM (SELECT {columns}) AS "row"').fetchone()[0]


@pytest.mark.parametrize(
    ("sql", "want", "row", "expected"),
    [
        (
            "case when way = 'in' then amount else -amount end",
            "money",
            {"way": "out", "amount": "1.234,56"},
            "-1234.5600",
        ),
        ("case when way = 'in' then amount else -amount end", "money", {"way": "in", "amount": "7"}, "7.0000"),
        ("amount <> 0", None, {"amount": "0,4"}, "true"),
        ("amount <> 0", None, {"amount": "0,00"}, "false"),
        ("amount in (1, 2)", None, {"amount": "1,0"}, "true"),
        ("amount between 1 and 2", None, {"amount": "1,5"}, "true"),
        ("date + interval 1 day", "date", {"date": "31.12.20"}, "2021-01-01 00:00:00"),
        ("date + interval 12 months <= date '1999-01-01'", None, {"date": "01.01.98"}, "true"),
        ("last_day(date)", "date", {"date": "03.02.20"}, "2020-02-29"),
        ("30 * greatest(n, 0)", "money", {"n": "-2"}, "0.0000"),
        ("coalesce(amount, 0)", "money", {}, "0.0000"),
        ("amount / 4", "number", {"amount": "1"}, "0.25"),
        ("way || '-' || n", None, {"way": "a", "n": "007"}, "a-007"),
        ("n = '007'", None, {"n": "007"}, "true"),
        ('"a.b"', "money", {"a.b": "2,5"}, "2.5000"),
        ("x + 1", "number", {"x": "1.5"}, "2.5"),
        ("row.amount", "money", {"amount": "3"}, "3.0000"),
    ],
)
def test_text_becomes_what_is_wanted_of_it(sql, want, row, expected):
    assert value(sql, want, **row) == expected


def test_more_than_four_decimals_are_an_error_and_not_rounded():
    with pytest.raises(duckdb.ConversionException):
        value("-amount", "money", amount="1,00001")
    assert value("-amount", "money", amount="1,00010") == "-1.0001"


@pytest.mark.parametrize(
    "sql", ["a +", "(select 1)", "a, b", "1; drop table x", "sum(a) over ()", "*", "a from t", "a as b, c"]
)
def test_what_is_not_one_expression_is_refused(sql):
    with pytest.raises(SqlFault):
        parse(duckdb.connect(), sql)


def test_columns_are_found_wherever_they_stand():
    tree = parse(
        duckdb.connect(),
        "case when a = 1 then d.b end + coalesce(c, 0) + list_sum(list_transform([e], lambda z: z + 1))",
    )
    assert columns_of(tree) == [("a",), ("d", "b"), ("c",), ("e",)]


def test_undated_observations_stand_on_the_source_s_one_date_unless_they_say_otherwise():
    text = """name: flat
currency: EUR
as_of: 2024-01-01
tables:
  observations:
    - {files: a.csv, columns: {customer_id: id, outcome: bad}}
    - {files: b.csv, columns: {customer_id: id, outcome: bad, as_of: decided}}
"""
    mapping = parse_mapping(text, "flat.yaml")
    first, second = mapping.tables["observations"]
    assert first.columns["as_of"] == "DATE '2024-01-01'"
    assert second.columns["as_of"] == "decided"


# --- layout and schema ----------------------------------------------------------------------------------------------


def test_payments_are_split_off_instalments_and_keep_the_lag_and_the_condition():
    text = """name: a
currency: EUR
tables:
  instalments:
    files: plan.csv
    columns: {credit_id: id, due_on: due, amount: owed, paid_on: paid-date, known_on: agreed}
    where: owed > 0
    known_after: 2 days
"""
    mapping = split_payments(parse_mapping(text, "a.yaml"))
    (due,), (paid,) = mapping.tables["instalments"], mapping.tables["payments"]
    assert due.columns == {"credit_id": "id", "due_on": "due", "amount": "owed", "known_on": "agreed"}
    assert paid.columns == {"credit_id": "id", "paid_on": "paid-date", "amount": "owed", "due_on": "due"}
    assert paid.where == '(owed > 0) and ("paid-date") is not null'
    assert paid.known_after == 2


def test_paid_on_belongs_to_instalments_alone():
    said = problems(
        GOOD.replace("amount: value}\n      attributes", "amount: value, amount_paid: x}\n      attributes")
    )
    assert any("amount_paid" in line for line in said)


def test_globs_take_the_files_columns_that_nothing_else_names():
    text = """name: a
currency: EUR
as_of: 2024-01-01
tables:
  observations:
    files: f.csv
    columns: {customer_id: id, outcome: case when Bad = 'x' then 1 else 0 end}
    attributes: {numeric: ["Attr*", Income], categorical: ["*"]}
"""
    columns = ["id", "Bad", "Attr1", "Attr2", "Income", "City", "Exposure"]
    (block,) = expanded(parse_mapping(text, "a.yaml"), lambda _: columns).tables["observations"]
    assert block.attributes.numeric == {"attr1": "Attr1", "attr2": "Attr2", "income": "Income"}
    assert block.attributes.categorical == {"city": "City", "exposure_2": "Exposure"}


def test_the_published_schema_is_that_of_the_code():
    published = (ROOT / "data/sources/mapping.schema.json").read_text(encoding="utf-8")
    assert published == schema_text(), "stale: .venv/bin/python -m features.schema > data/sources/mapping.schema.json"


@pytest.mark.parametrize("path", sorted((ROOT / "data/sources").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_schema_accepts_every_shipped_mapping_and_refuses_a_wrong_word(path):
    import jsonschema

    value = json.loads(json.dumps(yaml.load(path.read_text(), Loader=_UniqueKeys), default=str))
    schema = json.loads(schema_text())
    jsonschema.validate(value, schema)
    table = next(iter(value["tables"]))
    block = value["tables"][table][0] if isinstance(value["tables"][table], list) else value["tables"][table]
    block["columns"]["customer_idd"] = "x"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(value, schema)

"""Stage worklist: whom to contact, why, what to ask for and to offer, by when and by whom; and a calendar of reviews.

Writes worklist.parquet, .csv and .xlsx (the same rows, no formula in any), worklist.ics (what is due in the weeks that
the list covers), calendar.parquet (every customer's next regular review) and calendar.ics (those of the next days), and
whether such lists would have reached those who defaulted. What people did stands in data/contacts.csv, which no stage
writes, and in the contacts that `pull` brings from a CRM. Nothing is ever sent.
"""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Any, ClassVar

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from features.errors import ConfigurationRefused, Problem
from models import alerts, contact_value, contacts, worklist
from models.policy import Facts, Policy, expected_losses
from pipeline import answers, desk_files
from pipeline.params import Section, language
from pipeline.stage import execute, fresh, parquet, read_json, say, write_json

DECIDED, SCORES = Path("data/decide"), Path("data/score/scores.parquet")
POSITION, OBSERVED = Path("data/featurise/scoring/position.parquet"), Path("data/observe/observations.parquet")
TABLES, CONTACTS, AS_OF = Path("data/ingest/tables"), Path("data/contacts.csv"), Path("data/ingest/as_of.json")
OUT = Path("data/worklist")
FACTS = {  # of the position at the last date, with the type of what a source cannot say
    "kind": "varchar", "days_past_due": "double", "overdue_amount": "double", "accounts_period_end": "date",
    "last_event_on": "date", "monthly_inflow": "double", "revenue": "double",
}  # fmt: skip
STANDS = {"kind": "varchar", "product": "varchar", "exposure": "double", "days_past_due": "double"}
RISEN = ("PD_JUMP", "GRADE_DOWN")  # alerts that say that the PD rose
COPIED = (
    "customer_id", "grade", "grade_change", "pd_12m", "exposure", "expected_loss", "credit_limit",
    "credit_limit_recommended", "payment_term_days", "action", "alerts", "reason_1_text", "reason_2_text",
)  # fmt: skip
MONEY = pa.decimal128(18, 2)
SCHEMA = pa.schema(
    [
        ("rank", pa.int32()), ("customer_id", pa.string()), ("as_of", pa.date32()), ("kind", pa.string()),
        ("owner", pa.string()), ("state", pa.string()), ("outcome", pa.string()), ("week", pa.int32()),
        ("due_on", pa.date32()), ("again_from", pa.date32()), ("review_on", pa.date32()), ("loss_avoided", MONEY),
        ("expected_loss", MONEY), ("exposure", MONEY), ("pd_12m", pa.float64()), ("grade", pa.string()),
        ("grade_change", pa.int32()), ("action", pa.string()), ("alerts", pa.string()), ("why", pa.string()),
        ("ask_codes", pa.string()), ("ask", pa.string()), ("offer", pa.string()),
        ("credit_limit", MONEY), ("credit_limit_recommended", MONEY), ("payment_term_days", pa.int32()),
        ("overdue_amount", MONEY), ("accounts_period_end", pa.date32()), ("last_event_on", pa.date32()),
        ("last_contact_on", pa.date32()),
    ]
)  # fmt: skip
CALENDAR = pa.schema(
    [
        ("customer_id", pa.string()), ("owner", pa.string()), ("grade", pa.string()), ("months", pa.int32()),
        ("review_on", pa.date32()), ("last_contact_on", pa.date32()), ("again_from", pa.date32()),
    ]
)  # fmt: skip


class Params(Section, worklist.Rules):
    """Who is contacted, by whom and how often, and at which capacities the list is measured."""

    section: ClassVar[str] = "worklist"
    calendar_days: Annotated[int, Field(ge=1, le=3660)] = 92  # from as_of on, whose reviews stand in calendar.ics
    measured_capacities: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (10, 25, 50)
    measured_days_before: Annotated[int, Field(ge=0)] = 60


def read_lines(path: Path) -> pd.DataFrame:
    """Return the lines of what people did as text; a file that is absent is empty."""
    if not path.exists():
        return pd.DataFrame({name: pd.Series([], dtype=str) for name in contacts.COLUMNS})
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, UnicodeDecodeError, pd.errors.EmptyDataError) as error:
        must = f"CSV in UTF-8 with {len(contacts.COLUMNS)} columns"
        raise ConfigurationRefused(Problem(str(path), must, type(error).__name__, "Mend the file.")) from None


def crm_contacts() -> pd.DataFrame:
    """Return the newest version of each contact that came from a CRM (see `contacts.with_crm`); empty without any."""
    needed = {"contact_id", "version", "state", "outcome", "snoozed_days"}
    described = read_json(Path("data/ingest/tables.json")).get("contacts") or {}
    if not needed <= {*described.get("columns", {})}:
        return pd.DataFrame(columns=["customer_id", "on", "state", "outcome", "snoozed_days"])
    with duckdb.connect(config={"threads": 2}) as connection:
        return connection.execute(
            'select customer_id, event_on as "on", state, outcome, snoozed_days from '
            f"read_parquet('{TABLES}/contacts/*/part.parquet', hive_partitioning = false) "
            "qualify row_number() over (partition by contact_id order by known_on desc, version desc) = 1 order by all"
        ).df()


def owners(as_of: str) -> dict[str, str]:
    """Return each customer's owner as known before as_of; empty where the customers table has no such column."""
    described = read_json(Path("data/ingest/tables.json")).get("customers") or {}
    if "owner" not in described.get("columns", {}):
        return {}
    with duckdb.connect(config={"threads": 2}) as connection:
        rows = connection.execute(
            f"select customer_id, arg_max(owner, known_on) from read_parquet('{TABLES}/customers/**/*.parquet') "
            "where owner <> '' and known_on < cast(? as date) group by customer_id order by all", [as_of],
        ).fetchall()  # fmt: skip
    return dict(rows)


def _selected(wanted: dict[str, str], table: str, there: set[str]) -> str:
    """Return what a query selects of a table: columns by type, null where the table lacks one."""
    return ", ".join(
        f"cast({f'{table}.{name}' if name in there else 'null'} as {kind}) as {name}" for name, kind in wanted.items()
    )


def _joined(pairs: str) -> str:
    """Return a query for the day on which customers joined, as known on a date: customer_id, as_of, joined_on.

    pairs: what a query reads customer_id and as_of from. Joined is opened_on, else the day on which the customers table
    first knew of one; there is no row for whom it does not know, or where there is no such table.
    """
    columns = (read_json(Path("data/ingest/tables.json")).get("customers") or {}).get("columns", {})
    if not columns or not any(TABLES.glob("customers/**/*.parquet")):
        return "select '' as customer_id, date '1900-01-01' as as_of, date '1900-01-01' as joined_on where false"
    opened = "arg_max(c.opened_on, c.known_on)" if "opened_on" in columns else "null"
    return (
        f"select w.customer_id, w.as_of, cast(coalesce({opened}, min(c.known_on)) as date) as joined_on from {pairs} w "
        f"join read_parquet('{TABLES}/customers/**/*.parquet') c on c.customer_id = w.customer_id "
        "and c.known_on < w.as_of group by w.customer_id, w.as_of"
    )


def stands(as_of: str) -> pd.DataFrame:
    """Return FACTS and joined_on (null: unknown) of each customer at the last date, by customer_id."""
    there = set(pq.ParquetDataset(POSITION).schema.names)
    last = f"(select customer_id, cast(? as date) as as_of from '{parquet(POSITION)}' where months_back = 0)"
    with duckdb.connect(config={"threads": 2}) as connection:
        return connection.execute(
            f"with since as ({_joined(last)}) select p.customer_id, {_selected(FACTS, 'p', there)}, since.joined_on "
            f"from '{parquet(POSITION)}' p left join since using (customer_id) "
            "where months_back = 0 order by customer_id", [as_of],
        ).df()  # fmt: skip


def panel(policy: Policy, rules: worklist.Rules) -> pd.DataFrame:
    """Return every scored row with what the list looks at on its date (see `contact_value.reached_in_time`)."""
    there = set(pq.ParquetDataset(POSITION).schema.names)
    scored = f"'{parquet(SCORES)}'"
    held = pd.DataFrame({"code": [rule.code for rule in alerts.RULES if rule.severity in rules.severities]}, dtype=str)
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("codes", held)
        rows = connection.execute(
            f"with up as (select distinct customer_id, as_of from '{DECIDED}/alert_history.parquet' "
            f"semi join codes using (code)), since as ({_joined(scored)}) "
            f"select s.customer_id, s.as_of, s.pd, s.grade, s.in_training, {_selected(STANDS, 'p', there)}, "
            f"since.joined_on, up.customer_id is not null as alarmed from {scored} s "
            f"left join '{parquet(POSITION)}' p on p.customer_id = s.customer_id and p.months_back = s.months_back "
            "left join since on since.customer_id = s.customer_id and since.as_of = s.as_of "
            "left join up on up.customer_id = s.customer_id and up.as_of = s.as_of order by s.as_of, s.customer_id"
        ).df()
    unknown = np.full(len(rows), np.nan)
    company = rows["kind"].map({"company": 1.0, "person": 0.0}).to_numpy(dtype=float)
    facts = Facts(
        rows["pd"].to_numpy(float), np.zeros(len(rows), dtype=np.int64), company,
        rows["product"].to_numpy(dtype=object), *([unknown] * 7),
    )  # fmt: skip
    lost = policy.loss_given_default.of(facts, strict="max")[0]
    rows["expected_loss"] = expected_losses(facts.pd, lost, rows["exposure"].clip(lower=0).to_numpy(float))
    rows["review_months"] = _months(policy, rows["grade"])
    rows["in_training"] = rows["in_training"].astype("boolean").fillna(False).astype(bool)
    return rows


def _months(policy: Policy, grades: pd.Series) -> np.ndarray:
    """Return the months between reviews by grade; without a grade the fewest of all."""
    fewest = min(policy.review_months.values())
    return grades.map(policy.review_months).fillna(fewest).to_numpy(dtype=np.int64)


def measured(params: Params, policy: Policy, as_of: str) -> dict[str, Any]:
    """Return whether such lists, along the scored dates, would have reached those who defaulted since."""
    with duckdb.connect(config={"threads": 2}) as connection:
        bad = connection.execute(
            f"select customer_id, min(outcome_known_on) as known_on from '{parquet(OBSERVED)}' "
            "where outcome = 1 and outcome_known_on < cast(? as date) group by customer_id order by all", [as_of],
        ).df()  # fmt: skip
    return contact_value.reached_in_time(
        panel(policy, params), bad, params, params.measured_capacities, params.measured_days_before
    )


def run(
    table: pd.DataFrame, raised: pd.DataFrame, facts: pd.DataFrame, of: dict[str, str], lines: pd.DataFrame,
    policy: Policy, rules: worklist.Rules, as_of: dt.date, tongue: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Return the worklist in SCHEMA's columns and the calendar in CALENDAR's.

    table: COPIED of the decided table. raised: customer_id, code, severity, state, evidence of each alert. facts: FACTS
    and joined_on by customer_id. of: owner by customer. lines: of `read_contacts`.
    """
    table = table.sort_values("customer_id", ignore_index=True).merge(facts, on="customer_id", how="left")
    up = raised[raised["state"] != "cleared"]
    who = table["customer_id"].to_numpy(dtype=object)
    months = _months(policy, table["grade"])
    months = np.where(table["action"].isin(worklist.CALM), months, np.minimum(months, policy.review_months_urgent))
    known = worklist.Facts(
        who, table["customer_id"].map(of).astype(object).to_numpy(), table["pd_12m"].to_numpy(float),
        table["expected_loss"].to_numpy(float), table["days_past_due"].to_numpy(float), months,
        table["customer_id"].isin(up.loc[up["severity"].isin(rules.severities), "customer_id"]).to_numpy(),
        table["action"].to_numpy(dtype=object), pd.to_datetime(table["joined_on"]).to_numpy().astype("M8[D]"),
    )  # fmt: skip
    day = np.datetime64(as_of, "D")
    standing = contacts.standing(lines, who, as_of, rules.cool_down_days)
    chosen = worklist.listed(known, standing, day, rules)
    rows = table.iloc[chosen["row"]].reset_index(drop=True)
    seen = up[up["customer_id"].isin(rows["customer_id"])]
    told = seen.groupby("customer_id", sort=False)["evidence"].agg("; ".join)
    parts = pd.DataFrame({"a": rows["customer_id"].map(told), "b": rows["reason_1_text"], "c": rows["reason_2_text"]})
    parts = parts.where(parts.notna(), None)
    why = (parts.fillna("") + "; ").where(parts.notna(), "").sum(axis=1).astype(str).str.removesuffix("; ")
    risen = rows["customer_id"].isin(seen.loc[seen["code"].isin(RISEN), "customer_id"])
    lacks = pd.DataFrame(
        {
            "company": rows["kind"] == "company", "driver": rows["reason_1_text"], "risen": risen,
            "monthly_inflow": rows["monthly_inflow"].fillna(rows["revenue"]),
            **{name: rows[name] for name in ("overdue_amount", "accounts_period_end", "last_event_on")},
        }
    )  # fmt: skip
    ask_codes, ask = worklist.asked(lacks, day, rules, tongue)
    offer = worklist.offered(rows["action"], rows["credit_limit_recommended"], rows["payment_term_days"], tongue)
    rows = rows.drop(columns=["kind", "customer_id"])
    last = standing.last_done[chosen["row"]].astype("M8[s]")
    made = pd.concat([chosen, rows], axis=1).assign(
        as_of=day, why=why, ask_codes=ask_codes, ask=ask, offer=offer, last_contact_on=last
    )
    calendar = pd.DataFrame(
        {
            "customer_id": who, "owner": known.owner, "grade": table["grade"], "months": months,
            "review_on": worklist.reviews(known, standing, day, rules), "last_contact_on": standing.last_done,
            "again_from": standing.again_from,
        }
    )  # fmt: skip
    return made[SCHEMA.names], calendar


def as_table(frame: pd.DataFrame, schema: pa.Schema) -> pa.Table:
    """Return a frame in a schema's types: money to the cent, dates as days, NaN and NaT as null."""
    columns = []
    for field in schema:
        values = frame[field.name]
        if pa.types.is_decimal(field.type):
            columns.append(pa.array(values.astype(float).round(2), pa.float64(), from_pandas=True).cast(field.type))
        elif pa.types.is_date(field.type):
            days = pd.to_datetime(values).to_numpy().astype("M8[D]")
            columns.append(pa.array(days, pa.date32()))
        else:
            columns.append(pa.array(values, from_pandas=True).cast(field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def counts(made: pd.DataFrame, lines: pd.DataFrame, customers: pd.Series, as_of: str) -> dict[str, Any]:
    """Return what the list holds, in counts and money.

    `unknown_customers`: lines of who left, or never was here; `lines_after_as_of`: they count like all others.
    """
    live = made[made["state"].isin(["open", "waiting"])]
    return {
        "customers": len(customers),
        "listed": len(made),
        "by_state": {k: int(n) for k, n in made["state"].value_counts().sort_index().items()},
        "by_kind": {k: int(n) for k, n in live["kind"].value_counts().sort_index().items()},
        "by_week": {str(k): int(n) for k, n in live["week"].value_counts().sort_index().items()},
        "loss_avoided": {
            state: float(live.loc[live["state"] == state, "loss_avoided"].sum().round(2))
            for state in ("open", "waiting")
        },
        "lines": len(lines),
        "lines_after_as_of": int((lines["on"] > pd.Timestamp(as_of)).sum()),
        "unknown_customers": int((~lines["customer_id"].isin(customers)).sum()),
    }


def main() -> None:
    """Write the worklist in every form, the calendar, and what such lists would have reached."""
    params, tongue = Params.load(), language()
    as_of, decided = read_json(AS_OF)["as_of"], read_json(DECIDED / "summary.json")
    policy = Policy.model_validate(decided["policy_numbers"])
    lines = contacts.with_crm(contacts.read_contacts(read_lines(CONTACTS)), crm_contacts())
    table = pq.read_table(DECIDED / "table.parquet", columns=list(COPIED)).to_pandas()
    raised = pq.read_table(DECIDED / "alerts.parquet").to_pandas()
    of = owners(as_of)
    made, calendar = run(table, raised, stands(as_of), of, lines, policy, params, dt.date.fromisoformat(as_of), tongue)
    rows = as_table(made, SCHEMA)
    fresh(OUT)
    for ending in ("parquet", "csv"):
        answers.write(rows, OUT / f"worklist.{ending}")
    left_out = desk_files.write_workbook(rows, OUT / "worklist.xlsx", tongue)
    if left_out:
        say("worklist", "worklist.xlsx is cut: a sheet holds no more", rows=rows.num_rows, left_out=left_out)
    day, reviews = dt.date.fromisoformat(as_of), as_table(calendar, CALENDAR)
    desk_files.write_calendar(rows, OUT / "worklist.ics", day, tongue)
    desk_files.write_reviews(reviews, OUT / "calendar.ics", day, params.calendar_days, tongue)
    answers.write(reviews, OUT / "calendar.parquet")
    told = counts(made, lines, table["customer_id"], as_of)
    by_owner = made[made["state"] == "open"].groupby(made["owner"].fillna(""))["loss_avoided"].agg(["size", "sum"])
    write_json(
        OUT / "summary.json",
        {
            **told, "as_of": as_of, "currency": decided["currency"], "owners_known": bool(of),
            "by_owner": {k: [int(n), round(float(loss), 2)] for k, n, loss in by_owner.itertuples()},
            "rules": params.model_dump(mode="json"), "measured": measured(params, policy, as_of),
        },
    )  # fmt: skip
    say("worklist", "listed", customers=len(table), **told["by_state"])


if __name__ == "__main__":
    execute("worklist", main)

"""Stage decide: limit, term, action and alerts of every customer: the table as it will be published.

Only `grade_published_before` is absent and `run_id` null: publish fills both. `data_version` is the hash of the ledger
of deliveries and the run's as_of. The table is checked against its contract; what breaks it stands in the summary, and
publish, which checks again, refuses. Exposure and limit below 0 (a customer in credit) count as 0.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import ConfigurationRefused, Problem
from models import alerts, policy
from models.contract import PENDING, REASONS, TableContract, check_table
from models.grades import NO_GRADE, Scale
from models.overrides import COLUMNS, Overrides, read_overrides
from pipeline import params as parameters
from pipeline.lending import Params, files_of, read_policy
from pipeline.stage import execute, fresh, read_json, say, write_json

SCORES = Path("data/score/scores.parquet")
REASONS_FILE = Path("data/explain/reasons.parquet")
POSITION = Path("data/featurise/scoring/position.parquet")
SCORER = Path("data/promote/scorer")
CONTRACT = Path("data/contracts/scored_customers.v1.json")
OVERRIDES = Path("data/overrides.csv")
LEDGER, AS_OF = Path("data/ingest/ledger.json"), Path("data/ingest/as_of.json")
OUT = Path("data/decide")
MONTHS_BACK = {"grade_previous": 1, "grade_3m": 3, "grade_6m": 6, "grade_12m": 12}
FACTS = ("exposure", "credit_limit", "days_past_due", "months_of_history", "monthly_inflow", "bureau_default",
         "revenue", "limit_used", "balance", "altman_z", "equity", "industry_default_rate", "sentiment_3m")  # fmt: skip
ALERT_TYPES = {"as_of": pa.date32(), "first_seen_on": pa.date32(), "since_before": pa.bool_(), "value": pa.float64(),
               "before": pa.float64(), "threshold": pa.float64()}  # fmt: skip


@dataclass(frozen=True)
class Given:
    """What the decisions rest on besides the tables."""

    numbers: policy.Policy
    scale: Scale
    overrides: Overrides
    currency: str | None
    language: str
    model_version: str
    data_version: str


def data_version(ledger: bytes, as_of: str) -> str:
    """Return the version of the data: a hash of the ledger's bytes and the run's as_of."""
    return hashlib.sha256(ledger + b"\n" + as_of.encode()).hexdigest()[:16]


def read_lines(path: Path) -> pd.DataFrame:
    """Return the overrides' lines as text; a file that is absent is empty."""
    if not path.exists():
        return pd.DataFrame({name: pd.Series([], dtype=str) for name in COLUMNS})
    try:
        return pd.read_csv(path, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig")
    except (pd.errors.ParserError, UnicodeDecodeError, pd.errors.EmptyDataError) as error:
        raise ConfigurationRefused(
            Problem(str(path), "CSV in UTF-8 with six columns", type(error).__name__, "Mend the file.")
        ) from None


Reader = Callable[[np.ndarray], np.ndarray]  # a table's column -> (n, 13)


@dataclass(frozen=True)
class Panel:
    """Customers in ascending order with the last of their thirteen dates; figures are (n, 13), oldest first."""

    customers: np.ndarray
    as_of: np.ndarray

    @classmethod
    def of(cls, rows: pa.Table) -> Panel:
        """Return the panel of rows (customer_id, as_of), one a customer."""
        rows = rows.sort_by("customer_id")
        as_of = rows["as_of"].combine_chunks().cast(pa.int32()).to_numpy().astype("M8[D]")
        return cls(rows["customer_id"].to_pandas().to_numpy(dtype=object), as_of)

    def reader(self, table: pa.Table) -> Reader:
        """Return what lays a column of `table` out by customer and date, NaN where there is no row.

        Rows of customers who are not in the panel, and of dates outside the thirteen, are left out.
        """
        row = pc.index_in(table["customer_id"], value_set=pa.array(self.customers, pa.string())).combine_chunks()
        back = table["months_back"].to_numpy()
        has = ~np.asarray(row.is_null()) & (back >= 0) & (back < alerts.DATES)
        place = row.fill_null(0).to_numpy(zero_copy_only=False)[has], alerts.DATES - 1 - back[has]

        def lay_out(values: np.ndarray) -> np.ndarray:
            result = np.full((len(self.customers), alerts.DATES), np.nan)
            result[place] = values[has]
            return result

        return lay_out


def now_of(scores: pa.Table) -> pa.Table:
    """Return the scores of the run's date in the order of customer_id."""
    return scores.filter(pc.equal(scores["months_back"], 0)).sort_by("customer_id")


def ever_of(scores: pa.Table) -> pa.Table:
    """Return (customer_id, last date) of all who were scored on any date: who has defaulted since is no longer."""
    back = scores["months_back"].to_numpy().astype("timedelta64[M]")
    day = scores["as_of"].combine_chunks().cast(pa.int32()).to_numpy().astype("M8[D]")
    month = day.astype("M8[M]")
    last = pd.Series((month + back).astype("M8[D]") + (day - month.astype("M8[D]")))
    newest = last.groupby(scores["customer_id"].to_pandas().to_numpy(dtype=object)).max()
    days_ = pa.array(newest.to_numpy().astype("M8[D]"), pa.date32())
    return pa.table({"customer_id": pa.array(newest.index, pa.string()), "as_of": days_})


def numbers(table: pa.Table, name: str) -> np.ndarray:
    """Return a column as doubles, NaN for null and for a column that is not there."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return table[name].cast(pa.float64()).to_pandas().to_numpy(dtype=float, na_value=np.nan)


def days(table: pa.Table, name: str) -> np.ndarray:
    """Return a DATE column as days since 1970 in doubles, NaN for null and for a column that is not there."""
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan)
    return numbers(pa.table({name: table[name].cast(pa.date32()).cast(pa.int32())}), name)


def facts_of(panel: Panel, position: pa.Table) -> dict[str, np.ndarray]:
    """Return each of FACTS, and the days without an event, by customer and date."""
    stands = panel.reader(position)
    found = {name: stands(numbers(position, name)) for name in FACTS}
    return found | {"silent_days": stands(days(position, "as_of") - days(position, "last_event_on"))}


def held(given: Given, scores: pa.Table, position: pa.Table) -> pd.DataFrame:
    """Return every date on which an alert's condition held for anyone scored on it: customer_id, as_of, code."""
    panel = Panel.of(ever_of(scores))
    history = history_of(panel, scores, facts_of(panel, position), given.scale)
    return alerts.held(history, given.numbers.alerts)


def history_of(panel: Panel, scores: pa.Table, facts: Mapping[str, np.ndarray], scale: Scale) -> alerts.History:
    """Return the thirteen dates' figures that alerts look at. facts: each of FACTS and silent_days, (n, 13)."""
    scored = panel.reader(scores)
    notch = scale.notches(scores["grade"].to_pandas().to_numpy(dtype=object)).astype(float)
    probability = scored(numbers(scores, "pd"))
    inferred = alerts.use_of_limit(_from_zero(facts["exposure"]), facts["credit_limit"])
    used = np.where(np.isnan(facts["limit_used"]), inferred, facts["limit_used"])
    return alerts.History(
        panel.customers, panel.as_of, ~np.isnan(probability), probability,
        scored(np.where(notch == NO_GRADE, np.nan, notch)), used, facts["days_past_due"], facts["monthly_inflow"],
        facts["silent_days"], facts["bureau_default"], facts["balance"], facts["altman_z"], facts["equity"],
        facts["industry_default_rate"], facts["sentiment_3m"],
    )  # fmt: skip


def run(
    given: Given, contract: TableContract, scores: pa.Table, position: pa.Table, reasons: pa.Table
) -> tuple[pa.Table, alerts.Alerts, dict[str, Any]]:
    """Return the table in the contract's order, the alerts, and the summary's counts.

    scores: all dates. position: facts by customer and date, any column may be absent. reasons: as explain writes them.
    """
    names, now = given.scale.names, now_of(scores)
    panel = Panel.of(now)
    stands, found = panel.reader(position), facts_of(panel, position)
    history = history_of(panel, scores, found, given.scale)
    raised = alerts.raise_alerts(history, given.numbers.alerts, language=given.language)
    last = {name: figures[:, -1] for name, figures in found.items()}
    notch = history.notch[:, -1].astype(np.int64)
    facts = policy.Facts(
        pd=history.pd[:, -1], notch=notch, company=stands(_company(position))[:, -1],
        product=_products(panel, position),
        inflow=policy.inflow_of(last["monthly_inflow"], last["revenue"]), exposure=_from_zero(last["exposure"]),
        limit=_from_zero(last["credit_limit"]), days_past_due=last["days_past_due"],
        bureau_default=last["bureau_default"], months_of_history=last["months_of_history"],
        missing_share=numbers(now, "missing_share"),
    )  # fmt: skip
    limits = policy.recommend_limits(given.numbers, facts, names, given.currency)
    chosen = _amounts(given.overrides.values("credit_limit_recommended", panel.customers))
    overridden = ~np.isnan(chosen)
    limits = policy.Limits(
        np.where(overridden, chosen, limits.limit), np.where(overridden, "override", limits.rule),
        limits.loss_given_default, limits.stopped,
    )  # fmt: skip
    terms = policy.payment_terms(given.numbers, facts, names, limits.stopped)
    days_given = _amounts(given.overrides.values("payment_term_days", panel.customers))
    terms = np.where(np.isnan(days_given), terms, np.nan_to_num(days_given)).astype(np.int64)
    alarmed = raised.up[:, [alerts.CODES.index(code) for code in alerts.HIGH]].any(axis=1)
    action = policy.choose_actions(given.numbers, facts, names, limits, terms, alarmed)
    action_given = given.overrides.values("action", panel.customers)
    has_action = ~pd.isna(action_given)
    action = np.where(has_action, action_given, action)
    review = policy.next_reviews(given.numbers, panel.as_of, notch, names, action)
    before = {name: history.notch[:, alerts.DATES - 1 - back] for name, back in MONTHS_BACK.items()}
    grades = np.array([*names, None], dtype=object)
    columns: dict[str, Any] = {
        **{name: now[name] for name in ("customer_id", "as_of", "pd_low", "pd_high", "pd_raw", "score", "grade")},
        **{name: now[name] for name in ("missing_share", "out_of_range", "in_training")},
        "run_id": pa.nulls(now.num_rows, pa.string()),
        "model_version": np.full(now.num_rows, given.model_version, dtype=object),
        "data_version": np.full(now.num_rows, given.data_version, dtype=object),
        "pd_12m": facts.pd,
        **{name: grades[np.nan_to_num(place, nan=-1).astype(int)] for name, place in before.items()},
        "grade_change": before["grade_previous"] - notch,
        "exposure": facts.exposure,
        "loss_given_default": limits.loss_given_default,
        "expected_loss": policy.expected_losses(facts.pd, limits.loss_given_default, facts.exposure),
        "credit_limit": facts.limit,
        "credit_limit_recommended": limits.limit,
        "limit_rule": limits.rule,
        "payment_term_days": terms,
        "action": action,
        "alerts": alerts.joined_codes(raised.up),
        "months_of_history": facts.months_of_history,
        "next_review_on": review,
        **_reasons(panel, reasons),
    }
    schema = contract.arrow_schema(without=("grade_published_before",))
    table = pa.Table.from_arrays([_column(columns[field.name], field.type) for field in schema], schema=schema)
    overrides = {
        "active": len(given.overrides.active),
        "expired": given.overrides.expired,
        "unknown_customers": given.overrides.unknown(panel.customers),
        "customers": int((overridden | ~np.isnan(days_given) | has_action).sum()),
    }
    return table, raised, {"overrides": overrides, **_counts(table, raised)}


def _from_zero(amounts: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(amounts), np.nan, np.fmax(amounts, 0.0))


def _company(position: pa.Table) -> np.ndarray:
    """Return 1 for a company, 0 for a person, NaN where the kind is unknown."""
    if "kind" not in position.column_names:
        return np.full(position.num_rows, np.nan)
    kind = position["kind"].cast(pa.string())
    known = pc.is_in(kind, pa.array(["person", "company"]))
    company = pc.if_else(known, pc.cast(pc.equal(kind, "company"), pa.int8()), None)
    return numbers(pa.table({"company": company}), "company")


def _products(panel: Panel, position: pa.Table) -> np.ndarray:
    """Return each customer's product at the last date, None where it is unknown."""
    if "product" not in position.column_names:
        return np.full(len(panel.customers), None, dtype=object)
    coded = position["product"].cast(pa.string()).combine_chunks().dictionary_encode()
    place = panel.reader(position)(numbers(pa.table({"place": coded.indices}), "place"))[:, -1]
    names = np.array([*coded.dictionary.to_pylist(), None], dtype=object)
    return names[np.nan_to_num(place, nan=-1).astype(int)]


def _amounts(texts: np.ndarray) -> np.ndarray:
    return pd.to_numeric(pd.Series(texts, dtype=object)).to_numpy(dtype=float, na_value=np.nan)


def _column(values: Any, kind: pa.DataType) -> pa.Array:
    """Return one column in the contract's type; NaN is null, money is rounded to the cent."""
    if isinstance(values, pa.ChunkedArray):
        return values.combine_chunks().cast(kind)
    if isinstance(values, pa.Array):
        return values.cast(kind)
    if pa.types.is_decimal(kind):
        return pa.array(np.round(values, 2), pa.float64(), from_pandas=True).cast(kind)
    return pa.array(values, from_pandas=True).cast(kind)


def _reasons(panel: Panel, reasons: pa.Table) -> dict[str, Any]:
    """Return the columns reason_1_code .. reason_4_points: null where a customer has fewer reasons."""
    row = pc.index_in(reasons["customer_id"], value_set=pa.array(panel.customers, pa.string())).to_pandas()
    place = reasons["rank"].to_numpy() - 1
    known = row.notna().to_numpy() & (place < REASONS)
    at, slot = row[known].to_numpy(dtype=np.int64), place[known]
    columns: dict[str, Any] = {}
    sources = {"code": "code", "text": "text", "feature": "feature", "value": "value_text", "typical": "typical"}
    for part, source in sources.items():
        cells = np.full((len(panel.customers), REASONS), None, dtype=object)
        cells[at, slot] = reasons[source].to_pandas().to_numpy(dtype=object)[known]
        columns |= {f"reason_{k + 1}_{part}": pa.array(cells[:, k], pa.string()) for k in range(REASONS)}
    points = np.full((len(panel.customers), REASONS), np.nan)
    points[at, slot] = reasons["points"].to_numpy()[known]
    return columns | {f"reason_{k + 1}_points": points[:, k] for k in range(REASONS)}


def _counts(table: pa.Table, raised: alerts.Alerts) -> dict[str, Any]:
    """Return what the summary counts; money as text, exact."""
    parts = pc.split_pattern(table["limit_rule"], "; assumed ")
    assumed = pc.list_flatten(pc.split_pattern(pc.list_flatten(pc.list_slice(parts, 1, 2)), ", "))
    state = raised.table.groupby(["code", "state"]).size().to_dict()
    return {
        "customers": table.num_rows,
        "by_action": _sizes(table["action"]),
        "by_limit_rule": _sizes(pc.list_element(parts, 0)),
        "assumed": _sizes(assumed),
        "money": {
            name: str(pc.sum(table[name].cast(pa.decimal128(38, 2))).as_py() or 0)
            for name in ("exposure", "expected_loss", "credit_limit", "credit_limit_recommended")
        },
        "alerts": {
            code: {
                "known_for": raised.applicable[code],
                **{name: int(state.get((code, name), 0)) for name in ("raised", "kept", "cleared")},
            }
            for code in alerts.CODES
        },
        "customers_with_alerts": int(raised.up.any(axis=1).sum()),
    }


def _sizes(values: pa.ChunkedArray) -> dict[str, int]:
    return {each["values"]: each["counts"] for each in pc.value_counts(values).to_pylist()}


def alerts_table(frame: pd.DataFrame) -> pa.Table:
    """Return alerts, or the dates on which they held, in the types of their files."""
    arrays = {
        column: pa.array(frame[column], from_pandas=True).cast(ALERT_TYPES.get(column, pa.string()))
        for column in frame.columns
    }
    return pa.table(arrays)


def people_table(overrides: Overrides, customers: pa.ChunkedArray) -> pa.Table:
    """Return what people decided for these customers in place of the policy, as text."""
    decided_by_people = overrides.of(customers.to_pandas().to_numpy(dtype=object))
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    return pa.Table.from_pandas(decided_by_people, schema, preserve_index=False).replace_schema_metadata(None)


def given_by(path: Path) -> Given:
    """Return what the decisions of the run's date rest on, by the policy of a file; refuse a faulty one (4)."""
    run_facts = read_json(AS_OF)
    as_of = dt.date.fromisoformat(run_facts["as_of"])
    numbers_in_force = read_policy(path, as_of)
    overrides = read_overrides(read_lines(OVERRIDES), as_of)
    scorer = SCORER / "manifest.json"
    scale = Scale.from_json((SCORER / "grades.json").read_bytes()) if scorer.exists() else Scale()
    if scorer.exists():
        numbers_in_force.check_scale(scale)
    return Given(
        numbers_in_force, scale, overrides, run_facts.get("currency"), parameters.language(),
        str(read_json(scorer)["model_version"]) if scorer.exists() else "",
        data_version(LEDGER.read_bytes(), run_facts["as_of"]),
    )  # fmt: skip


def main() -> None:
    """Decide on every scored customer; write table, alerts, their history, and the summary."""
    params = Params.load()
    given = given_by(Path(params.policy))
    contract = TableContract.from_json(CONTRACT.read_bytes())
    scores, position = pq.read_table(SCORES), pq.read_table(POSITION)
    table, raised, counts = run(given, contract, scores, position, pq.read_table(REASONS_FILE))
    dated = held(given, scores, position)
    problems = check_table(table, contract, pending=PENDING, enumerations={"grades": given.scale.names})
    fresh(OUT)
    pq.write_table(table, OUT / "table.parquet", compression="zstd")
    for name, frame in (("alerts", raised.table), ("alert_history", dated)):
        pq.write_table(alerts_table(frame), OUT / f"{name}.parquet", compression="zstd")
    people = people_table(given.overrides, table["customer_id"])
    pq.write_table(people, OUT / "overrides.parquet", compression="zstd")
    summary = {
        "decided": table.num_rows > 0,
        "horizon_months": read_json(Path("data/observe/summary.json"))["horizon_months"],
        "as_of": read_json(AS_OF)["as_of"],
        "currency": given.currency,
        "policy": params.policy,
        "policy_files": [file.as_posix() for file in files_of(Path(params.policy))],
        "policy_numbers": given.numbers.model_dump(mode="json"),
        "maximum_limit_known": (given.currency or "") in given.numbers.maximum_limit,
        "model_version": given.model_version,
        "data_version": given.data_version,
        "contract_problems": [problem.record() for problem in problems],
        **counts,
    }
    write_json(OUT / "summary.json", summary)
    say(
        "decide", "decided", customers=table.num_rows, with_alerts=counts["customers_with_alerts"],
        overridden=counts["overrides"]["customers"], **{f"to_{k}": v for k, v in sorted(counts["by_action"].items())},
    )  # fmt: skip
    for problem in problems:
        say("decide", f"breaks the contract: {problem.sentence()}")


if __name__ == "__main__":
    execute("decide", main)

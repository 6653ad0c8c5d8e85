"""What another policy would have done to the portfolio, before it is published: limits, losses, actions.

Both policies decide on the same scores, positions and overrides, those of the newest run; nothing is written but what
`--out` asks for. Expected loss is told at the limits: PD times loss given default times the limit recommended.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import ConfigurationRefused, Problem
from models.contract import TableContract
from pipeline import answers, decide
from pipeline.lending import Params

CHANGED = ("credit_limit_recommended", "limit_rule", "payment_term_days", "action", "alerts")
MOVES_PD = "long_run_default_rate"


def both(path: Path) -> tuple[Path, pa.Table, pa.Table, dict[str, tuple[Any, Any]]]:
    """Return the policy in force, the tables by it and by that of `path`, and the numbers that differ (before, after).

    Refuses (exit code 4) where no run has scored anyone, and a policy whose long-run default rate differs: that moves
    the PDs themselves, which only a run can do.
    """
    missing = [str(file) for file in (decide.SCORES, decide.POSITION, decide.REASONS_FILE) if not file.exists()]
    if missing:
        raise ConfigurationRefused(
            Problem(", ".join(missing), "what the newest run left", "no such file", "Run it: `python -m pipeline run`.")
        )
    now = Path(Params.load().policy)
    contract = TableContract.from_json(decide.CONTRACT.read_bytes())
    inputs = [pq.read_table(file) for file in (decide.SCORES, decide.POSITION, decide.REASONS_FILE)]
    given = [decide.given_by(file) for file in (now, path)]
    tables = [decide.run(each, contract, *inputs)[0] for each in given]
    before, after = (each.numbers.model_dump(mode="json") for each in given)
    differing = {name: (before.get(name), value) for name, value in after.items() if before.get(name) != value}
    if MOVES_PD in differing:
        raise ConfigurationRefused(
            Problem(f"{path}: {MOVES_PD}", f"as in {now}", "another value", "It moves PDs: name the policy in "
                    "params.yaml (decide.policy) and run with `experiment`.")
        )  # fmt: skip
    return now, tables[0], tables[1], differing


def totals(table: pa.Table) -> dict[str, Any]:
    """Return what a policy comes to: customers, those with a limit, limits, expected loss at the limits, terms."""
    limit, lost = table["credit_limit_recommended"], table["loss_given_default"]
    loss = pc.multiply(pc.multiply(table["pd_12m"], lost.cast(pa.float64())), limit.cast(pa.float64()))
    return {
        "customers": table.num_rows,
        "customers with a limit": int(pc.sum(pc.greater(limit, Decimal(0))).as_py() or 0),
        "limits recommended": float(pc.sum(limit).as_py() or 0),
        "expected loss at the limits": float(pc.sum(loss).as_py() or 0),
        "mean payment term, days": float(pc.mean(table["payment_term_days"]).as_py() or 0),
        "customers with alerts": int(pc.sum(pc.not_equal(table["alerts"], "")).as_py() or 0),
    }


def changes(before: pa.Table, after: pa.Table) -> pa.Table:
    """Return the customers whom the other policy treats otherwise: grade, PD, and each of CHANGED before and after."""
    same = pa.array([True] * before.num_rows)
    for name in CHANGED:
        equal = pc.equal(before[name], after[name]).combine_chunks()
        nulls = pc.and_(before[name].is_null(), after[name].is_null()).combine_chunks()
        same = pc.and_(same, pc.or_(pc.fill_null(equal, fill_value=False), nulls))
    columns = {name: before[name] for name in ("customer_id", "grade", "pd_12m")}
    for name in CHANGED:
        columns |= {f"{name}_before": before[name], name: after[name]}
    return pa.table(columns).filter(pc.invert(same))


def moves(before: pa.Table, after: pa.Table) -> dict[tuple[str, str], int]:
    """Return (action before, action after) -> customers."""
    pairs = pa.table({"before": before["action"], "after": after["action"]}).group_by(["before", "after"])
    counted = pairs.aggregate([([], "count_all")]).to_pylist()
    return {(row["before"], row["after"]): row["count_all"] for row in counted}


def tell(path: Path, out: Path | None) -> int:
    """Print what the policy of `path` would have done; write the customers concerned to `out` (.csv or .parquet)."""
    answers.check(out)
    now, before, after, differing = both(path)
    found = changes(before, after)
    print(f"{path} instead of {now}; nothing is published by this")
    for name, (was, becomes) in differing.items():
        print(f"  {name}: {_short(was)} -> {_short(becomes)}")
    if not differing:
        print("  the numbers in force are the same")
    old, new = totals(before), totals(after)
    print(f"\n{'':28}{'in force':>16}{'what if':>16}{'change':>10}")
    for name, value in old.items():
        share = f"{new[name] / value - 1:+.1%}" if value else "-"
        print(f"{name:28}{_number(value):>16}{_number(new[name]):>16}{share:>10}")
    counted = moves(before, after)
    actions = sorted({action for pair in counted for action in pair})
    print(f"\n{'action in force':20}" + "".join(f"{action:>10}" for action in actions) + "   (what if)")
    for was in actions:
        print(f"{was:20}" + "".join(f"{counted.get((was, becomes), 0):>10,}" for becomes in actions))
    print(f"\n{found.num_rows:,} of {before.num_rows:,} customers are treated otherwise")
    if out is not None:
        answers.write(found, out)
        print(f"written to {out}")
    return 0


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 160 else f"{text[:157]}..."

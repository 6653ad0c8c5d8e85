"""What moved since the newest publication of an earlier as_of: who came, who left, whose standing changed."""

from __future__ import annotations

import pyarrow as pa

WATCHED = ("grade", "credit_limit_recommended", "payment_term_days", "action", "alerts")
SHOWN = ("pd_12m", "score", *WATCHED)


def between(before: pa.Table | None, now: pa.Table) -> pa.Table:
    """Return one row for each customer who came, left, or whose grade, recommended limit, term, action or alerts moved.

    before, now: published tables, or None where there was none before (then nothing moved). Columns: customer_id, moved
    (`came`, `left`, or the names of what changed, by comma), then `<column>_before` and `<column>` of PD, score and the
    watched columns (null on the side where the customer is not), alerts_raised and alerts_cleared (codes by `;`, or
    null). Sorted by customer_id. A PD that moved within its grade and changed nothing else is no row.
    """
    import duckdb

    earlier = now.slice(0, 0) if before is None else before
    changed = ", ".join(f"CASE WHEN b.{name} IS DISTINCT FROM n.{name} THEN '{name}' END" for name in WATCHED)
    pairs = ", ".join(f"b.{name} AS {name}_before, n.{name} AS {name}" for name in SHOWN)

    def codes(side: str) -> str:
        return f"list_filter(string_split(coalesce({side}.alerts, ''), ';'), code -> code <> '')"

    def without(some: str, others: str) -> str:
        kept = f"list_filter({codes(some)}, code -> NOT list_contains({codes(others)}, code))"
        return f"nullif(array_to_string({kept}, ';'), '')"

    with duckdb.connect() as connection:
        connection.register("before_table", earlier.select(["customer_id", *SHOWN]))
        connection.register("now_table", now.select(["customer_id", *SHOWN]))
        moved = connection.execute(f"""
            SELECT coalesce(n.customer_id, b.customer_id) AS customer_id,
                CASE WHEN b.customer_id IS NULL THEN 'came' WHEN n.customer_id IS NULL THEN 'left'
                    ELSE nullif(concat_ws(',', {changed}), '') END AS moved,
                {pairs}, {without("n", "b")} AS alerts_raised, {without("b", "n")} AS alerts_cleared
            FROM before_table b FULL JOIN now_table n ON n.customer_id = b.customer_id
        """).to_arrow_table()
        connection.register("moved", moved)
        return connection.execute(
            f"SELECT * FROM moved WHERE moved IS NOT NULL AND {str(before is not None).lower()} ORDER BY customer_id"
        ).to_arrow_table()

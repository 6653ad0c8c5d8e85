"""The key promise of the simulated world: its true PD is the rate at which its customers really default."""

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from models.world import KNOWN, World, lives

WORLD = World(seed=11, customers=6000, months=60, chunk_customers=3500)


@pytest.fixture(scope="module")
def books():
    """Everything that was ever known, by the lender's table names, beside `truth`, in one DuckDB."""
    parts = {name: [] for name in (*KNOWN, "truth")}
    for step in lives(WORLD):
        parts["truth"].append(step.truth)
        for name, rows in step.tables.items():
            parts[name].append(rows)
    connection = duckdb.connect()
    for name, tables in parts.items():
        connection.register("rows", pa.concat_tables(tables))
        connection.execute(f"CREATE TABLE {name} AS SELECT * FROM rows")
        connection.unregister("rows")
    return connection


@pytest.fixture(scope="module")
def outcomes(books):
    """One row a customer and date with a closed window: the true PD, and whether a statement of the year showed 90 days."""
    return books.execute("""
        WITH days AS (SELECT CAST(contract_no // 100 AS VARCHAR) AS customer_id, statement_date, max(days_late) AS late
                      FROM month_ends GROUP BY ALL)
        SELECT customer_id, as_of, true_pd, month(as_of) AS month, year(as_of) AS year,
               EXISTS (FROM days WHERE days.customer_id = truth.customer_id AND late >= 90
                       AND statement_date >= as_of AND statement_date < as_of + INTERVAL 12 MONTH) AS bad
        FROM truth WHERE as_of <= DATE '2025-01-01' ORDER BY as_of, customer_id""").df()


def deviation(rows, pd):
    """How many standard errors the realised defaults lie from the sum of PDs; customers of one date are independent."""
    return (rows.bad.sum() - pd.sum()) / np.sqrt((pd * (1 - pd)).sum())


def test_mean_true_pd_is_the_realised_default_rate_at_every_date(outcomes):
    found = [deviation(rows, rows.true_pd) for _, rows in outcomes.groupby("as_of")]
    assert len(found) == 48
    assert max(map(abs, found)) < 4


def test_true_pd_is_calibrated_in_every_decile_of_dates_a_year_apart(outcomes):
    rows = outcomes[(outcomes.month == 1) & (outcomes.year >= 2022)].copy()  # windows that do not overlap
    rows["decile"] = np.argsort(np.argsort(rows.true_pd.to_numpy(), kind="stable")) * 10 // len(rows)
    chi2 = sum(deviation(part, part.true_pd) ** 2 for _, part in rows.groupby("decile"))
    assert chi2 < stats.chi2.ppf(0.9995, 10)


def test_the_check_would_see_a_truth_that_is_off_by_a_fifth(outcomes):
    rows = outcomes[(outcomes.month == 1) & (outcomes.year >= 2022)]
    assert abs(deviation(rows, rows.true_pd * 1.2)) > 3


def test_defaults_are_some_five_in_a_hundred_a_year_and_more_in_the_downturn(outcomes):
    by_date = outcomes.groupby("as_of").bad.mean()
    assert 0.04 < outcomes.bad.mean() < 0.06
    assert by_date["2023-01-01"] > 1.4 * by_date["2021-06-01"]


def test_truth_covers_exactly_who_has_an_open_credit_and_is_not_in_default(books):
    missing, extra = books.execute("""
        WITH due AS (SELECT CAST(contract_no // 100 AS VARCHAR) AS customer_id, statement_date + 1 AS as_of
                     FROM month_ends GROUP BY ALL
                     HAVING bool_or(state_code NOT IN ('X', 'W')) AND NOT bool_or(state_code = 'D'))
        SELECT (SELECT count(*) FROM due ANTI JOIN truth USING (customer_id, as_of)),
               (SELECT count(*) FROM truth ANTI JOIN due USING (customer_id, as_of))""").fetchone()
    assert (missing, extra) == (0, 0)


def test_days_late_follow_from_dues_and_payments(books):
    """Of every loan and invoice line, the stated days are those since the oldest due not paid by the statement's date."""
    compared, wrong = books.execute("""
        WITH dues AS (SELECT contract_no, due_date FROM instalments
                      UNION ALL SELECT contract_no, pay_by FROM invoices),
        settled AS (SELECT contract_no, for_due_date AS due_date, paid_date FROM receipts WHERE for_due_date IS NOT NULL),
        stated AS (SELECT m.* FROM month_ends m JOIN contracts USING (contract_no)
                   WHERE product_code <> 'CARD' AND state_code NOT IN ('X', 'W') AND statement_date IN
                         (DATE '2021-01-31', DATE '2021-05-31', DATE '2023-04-30', DATE '2025-09-30')),
        oldest AS (SELECT s.contract_no, statement_date, days_late,
                          min(d.due_date) FILTER (p.paid_date IS NULL OR p.paid_date > statement_date) AS unpaid
                   FROM stated s LEFT JOIN dues d ON d.contract_no = s.contract_no AND d.due_date <= statement_date
                   LEFT JOIN settled p ON p.contract_no = d.contract_no AND p.due_date = d.due_date GROUP BY ALL)
        SELECT count(*), count(*) FILTER (coalesce(statement_date - unpaid, 0) <> days_late) FROM oldest""").fetchone()
    assert compared > 5000
    assert wrong == 0


def test_each_balance_is_the_one_before_and_the_movement(books):
    """Compared in the order of booking, up to October 2025: what was booked later may not have been entered yet."""
    compared, wrong = books.execute("""
        WITH signed AS (SELECT *, CASE direction WHEN 'C' THEN value ELSE -value END AS amount,
                               lag(balance) OVER (PARTITION BY client_no ORDER BY booking_date, movement_no) AS earlier
                        FROM movements WHERE booking_date < DATE '2025-11-01')
        SELECT count(earlier), count(*) FILTER (earlier + amount <> balance) FROM signed""").fetchone()
    assert compared > 100_000
    assert wrong == 0


def test_a_default_is_a_material_sum(books):
    smallest, share = books.execute("""
        SELECT min(amount_late), min(amount_late / outstanding) FROM month_ends WHERE days_late >= 90""").fetchone()
    assert smallest >= 100
    assert share > 0.05


def test_some_leave_some_come_back_for_another_loan_few_are_cured(books):
    closed, written_off, renewed, defaulted, cured = books.execute("""
        WITH told AS (SELECT *, lead(state_code) OVER (PARTITION BY contract_no ORDER BY statement_date) AS next
                      FROM month_ends)
        SELECT count(*) FILTER (state_code = 'X'), count(*) FILTER (state_code = 'W'),
               (SELECT count(*) FROM contracts WHERE contract_no % 100 BETWEEN 2 AND 50),
               (SELECT count(DISTINCT contract_no) FROM told WHERE state_code = 'D'),
               count(*) FILTER (state_code = 'D' AND next IN ('N', 'L')) FROM told""").fetchone()
    assert closed > 1000
    assert renewed > 500
    assert written_off > 0.5 * defaulted
    assert 0 < cured < 0.25 * defaulted


def test_keys_are_unique_and_every_row_has_its_client_or_contract_known_by_then(books):
    keys = {
        "contracts": "contract_no", "receipts": "receipt_no", "movements": "movement_no", "mentions": "mention_no",
        "month_ends": "contract_no, statement_date", "instalments": "contract_no, due_date",
        "invoices": "contract_no, pay_by", "bureau_lines": "line_ref", "bureau_months": "line_ref, month_end",
        "accounts": "client_no, year_end", "standings": "client_no, quarter", "sectors": "sector_code, quarter",
    }  # fmt: skip
    for name, key in keys.items():
        rows, distinct = books.execute(f"SELECT count(*), count(DISTINCT ({key})) FROM {name}").fetchone()
        assert rows == distinct > 0, name
    parents = {"client_no": "clients", "contract_no": "contracts", "line_ref": "bureau_lines"}
    for name, known in KNOWN.items():
        for key, parent in parents.items():
            columns = [row[0] for row in books.execute(f"DESCRIBE {name}").fetchall()]
            if key in columns and name != parent:
                orphans = books.execute(f"""SELECT count(*) FROM {name} c LEFT JOIN
                    (SELECT {key}, min({KNOWN[parent]}) AS since FROM {parent} GROUP BY 1) p USING ({key})
                    WHERE p.since IS NULL OR p.since > c.{known}""").fetchone()[0]
                assert orphans == 0, (name, parent)


def test_some_rows_become_known_late(books):
    late_movements, lag_accounts, lag_bureau = books.execute("""
        SELECT (SELECT avg(CAST(entered_on - booking_date > 7 AS INT)) FROM movements),
               (SELECT min(filed_on - year_end) FROM accounts WHERE year_end >= DATE '2021-12-31'),
               (SELECT min(reported_on - month_end) FROM bureau_months)""").fetchone()
    assert 0.002 < late_movements < 0.01
    assert lag_accounts >= 70
    assert lag_bureau >= 14


def test_the_balance_sheet_balances(books):
    off = books.execute("SELECT count(*) FROM accounts WHERE total_assets <> total_debt + equity").fetchone()[0]
    parts = books.execute("SELECT count(*) FROM accounts WHERE current_assets > total_assets OR stock > current_assets")
    assert (off, parts.fetchone()[0]) == (0, 0)


def test_the_histories_show_the_hidden_stress_only_in_part(books, outcomes):
    """The true PD ranks better than the days late that everybody sees, and is far from perfect itself."""
    late = books.execute("""
        SELECT customer_id, as_of, max(days_late) AS late FROM truth JOIN month_ends
        ON CAST(contract_no // 100 AS VARCHAR) = customer_id AND statement_date = as_of - 1 GROUP BY ALL""").df()
    rows = outcomes.merge(late, on=["customer_id", "as_of"], validate="1:1")
    auc = {
        name: stats.mannwhitneyu(rows[name][rows.bad], rows[name][~rows.bad]).statistic for name in ("true_pd", "late")
    }
    pairs = rows.bad.sum() * (~rows.bad).sum()
    assert 0.86 < auc["true_pd"] / pairs < 0.94
    assert 0.60 < auc["late"] / pairs < 0.80

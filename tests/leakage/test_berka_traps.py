"""The traps of Berka, each as a mutated mapping: refused as it stands, or seen by a check once it is forced through."""

from __future__ import annotations

import contextlib
import io

import duckdb
import pytest
from lenders import ROOT, project

from features.errors import ConfigurationRefused
from pipeline import ingest, observe

HONEST = (ROOT / "data/sources/berka.yaml").read_text(encoding="utf-8")
ORDERS = """
  orders:
    files: order.asc
    format: {delimiter: ";"}
    columns: {customer_id: account_id}
    attributes: {numeric: {amount: amount}}
"""
JOINED = """
  orders:
    files: order.asc
    format: {delimiter: ";", dates: "%y%m%d"}
    columns: {customer_id: account_id, event_on: loan.date - interval 1 day}
    attributes: {numeric: {amount: row.amount}}
    joins:
      - {files: loan.asc, as: loan, on: row.account_id = loan.account_id, format: {delimiter: ";", dates: "%y%m%d"}}
"""
CARDS = """
  cards:
    files: card.asc
    format: {delimiter: ";", dates: "%y%m%d"}
    columns: {customer_id: disp.account_id, event_on: KNOWN}
    attributes: {categorical: {card: row.type, issued: row.issued}}
    joins:
      - {files: disp.asc, as: disp, on: row.disp_id = disp.disp_id, static: true, format: {delimiter: ";"}}
      - {files: loan.asc, as: loan, on: disp.account_id = loan.account_id, static: true,
         format: {delimiter: ";", dates: "%y%m%d"}}
    where: loan.account_id is not null
"""


@pytest.fixture
def berka(realdata, tmp_path):
    """Ingest and observe Berka by a mapping of the test; gives the folder's queries."""

    def by(mapping: str):
        with project(tmp_path, {"source": "berka", "as_of": "latest", "language": "en"}) as here:
            sources = here / "data/sources"
            if sources.is_symlink():
                sources.unlink()
                sources.mkdir()
            (sources / "berka.yaml").write_text(mapping, encoding="utf-8")
            if not (here / "data/raw/berka").exists():
                (here / "data/raw/berka").symlink_to(realdata / "berka")
            with contextlib.redirect_stdout(io.StringIO()):
                ingest.main()
                observe.main()
        return lambda query: duckdb.execute(query.replace("@", f"{tmp_path}/data/")).fetchall()

    return by


@pytest.mark.realdata
def test_an_undated_order_is_refused(berka):
    with pytest.raises(ConfigurationRefused, match="orders"):
        berka(HONEST + ORDERS)


@pytest.mark.realdata
def test_a_join_that_is_not_declared_static_is_refused(berka):
    with pytest.raises(ConfigurationRefused, match="static: true"):
        berka(HONEST + JOINED)


def late_cards(query) -> int:
    """Count rows of cards whose own day of issue is on or after the day on which they are said to be known."""
    return query("""
        SELECT count(*) FROM read_parquet('@ingest/tables/cards/*/part.parquet', hive_partitioning = false)
        WHERE strptime(left(issued, 6), '%y%m%d') > known_on""")[0][0]


@pytest.mark.realdata
def test_a_late_card_is_known_when_it_was_issued(berka, realdata):
    issued = CARDS.replace("KNOWN", "\"strptime(left(row.issued, 6), '%y%m%d')\"")
    query = berka(HONEST + issued)
    assert late_cards(query) == 0
    seen = query("""
        SELECT count(*), count(*) FILTER (c.known_on < o.as_of) FROM
        read_parquet('@ingest/tables/cards/*/part.parquet', hive_partitioning = false) c
        JOIN '@observe/observations.parquet' o USING (customer_id)""")
    raw = {
        name: f"read_csv('{realdata}/berka/{name}', delim=';', all_varchar=true)"
        for name in ("card.asc", "disp.asc", "loan.asc")
    }
    counted = duckdb.execute(f"""
        SELECT count(*), count(*) FILTER (left(c.issued, 6) < l.date) FROM {raw["card.asc"]} c
        JOIN {raw["disp.asc"]} d USING (disp_id) JOIN {raw["loan.asc"]} l USING (account_id)
        WHERE account_id IN (SELECT account_id::VARCHAR FROM '{realdata}/berka/trans_preloan_392.csv')""").fetchall()
    assert seen == counted
    assert counted[0][1] < counted[0][0] / 2  # most were issued after the loan
    assert late_cards(berka(HONEST + CARDS.replace("KNOWN", "loan.date - interval 1 day"))) > 0


def goods_before_their_time(query) -> int:
    """Count good outcomes whose twelve months were not over when the outcome became known."""
    return query("""
        SELECT count(*) FROM '@observe/training.parquet'
        WHERE outcome = 0 AND outcome_known_on < as_of + INTERVAL 12 MONTH - INTERVAL 1 DAY""")[0][0]


@pytest.mark.realdata
def test_a_running_loan_is_not_good(berka):
    assert goods_before_their_time(berka(HONEST)) == 0
    start = HONEST.index("        case when status in ('B', 'D') then 1 when")
    running = (
        HONEST[:start]
        + "        case when status in ('B', 'D') then 1 else 0 end\n"
        + HONEST[HONEST.index("      outcome_known_on: >-") :]
    )
    assert goods_before_their_time(berka(running)) == 154

"""An artificial lender whose customers' true probabilities of default are known exactly.

`lives` yields its books chunk by chunk and month by month; nothing here opens a file. Every (seed, chunk, month,
subject) has its own random stream, so a month's rows are the same however many months follow. The law of stress,
arrears and default stands in `hazard`; `life` moves the customers, the other modules write what the lender sees of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.world import context, credit, hazard, life, money
from models.world.calendar import first_day, last_day, month_number
from models.world.columns import dates, table
from models.world.customers import COMPANY, State, cohort

Array = np.ndarray
STOCK_SHARE = 0.55  # of the customers of the first sixty months: those there before the first
FILL_MONTHS = 60  # the others join evenly over these months, and at the same pace after them

KNOWN = {  # table of the lender -> the column that says when a row was known; also the order of writing
    "clients": "entered_on",
    "contracts": "entered_on",
    "instalments": "entered_on",
    "invoices": "issued_on",
    "receipts": "entered_on",
    "month_ends": "statement_date",
    "movements": "entered_on",
    "bureau_lines": "reported_on",
    "bureau_months": "reported_on",
    "accounts": "filed_on",
    "sectors": "published",
    "standings": "scored_on",
    "mentions": "found_on",
}
TOTAL = {  # table -> the money column whose sum is its control total
    "contracts": "granted",
    "instalments": "instalment",
    "invoices": "invoice_total",
    "receipts": "paid",
    "month_ends": "outstanding",
    "movements": "value",
    "bureau_lines": "granted",
    "bureau_months": "outstanding",
    "accounts": "total_assets",
}


@dataclass(frozen=True)
class World:
    """What the lender is: `customers` who come within the first sixty months, and `months` of books from `start`."""

    seed: int = 7
    customers: int = 5000
    months: int = 60
    start: str = "2021-01"
    transactions_per_month: float = 3.0
    chunk_customers: int = 20000


@dataclass(frozen=True)
class Month:
    """One chunk's month: rows that became known in it, by table, and the truth on the first day of the next month."""

    chunk: int
    month: int  # from January 2021
    tables: dict[str, pa.Table]
    truth: pa.Table  # customer_id, as_of, true_pd (probability of default within twelve months)


def stream(world: World, *place: int) -> np.random.Generator:
    """Return the random stream of a place (chunk, month number, subject); month numbers may be negative."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([world.seed, *(part + 5000 for part in place)])))


def chunks(world: World) -> list[int]:
    """Return how many customers each chunk holds."""
    full, rest = divmod(world.customers, world.chunk_customers)
    return [world.chunk_customers] * full + ([rest] if rest else [])


def lives(world: World) -> Iterator[Month]:
    """Yield each chunk's months in order; at most one chunk is in memory."""
    first = month_number(world.start)
    truth = hazard.exact_pd(first + 1, world.months)
    for chunk, size in enumerate(chunks(world)):
        yield from _chunk(world, chunk, size, first, truth)


def _joiners(size: int, elapsed: int) -> int:
    """Return how many of a chunk's customers join in its month `elapsed`, evenly spread by whole numbers."""
    coming = size - int(size * STOCK_SHARE)
    return coming * (elapsed + 1) // FILL_MONTHS - coming * elapsed // FILL_MONTHS


def _numbered(state: State, chunk: int, already: int) -> State:
    """Add client numbers: ten million, a hundred thousand numbers a chunk, in order of joining."""
    return state | {"number": 10_000_000 + chunk * 100_000 + already + np.arange(len(state["kind"]))}


def _arrivals(world: World, chunk: int, month: int, state: State, start: int, *, year: int) -> dict[str, pa.Table]:
    """Return the client, contract, bureau and accounts rows of customers who just came."""
    rng = stream(world, chunk, month, 1)
    everyone = np.arange(len(state["kind"]))
    company = np.flatnonzero(state["kind"] == COMPANY)
    borrowers = np.flatnonzero(state["has_loan"])
    holders = np.flatnonzero(credit.has_revolving(state))
    traders = np.flatnonzero(credit.has_revolving(state) & (state["kind"] == COMPANY))
    return {
        "clients": context.clients(state, everyone, np.maximum(state["opened"], start)),
        "contracts": pa.concat_tables(
            [
                credit.contracts(state, borrowers, revolving=False, start=start),
                credit.contracts(state, holders, revolving=True, start=start),
            ]
        ),
        "invoices": credit.invoices(state, traders, np.full(len(traders), month + 1)),
        "bureau_lines": credit.bureau_lines(rng, state, np.flatnonzero(state["bureau_day"] >= 0), start),
        "accounts": context.accounts(rng, state, company, year, start),
    }


def _carried_in(state: State, month: int, start: int) -> dict[str, pa.Table]:
    """Return the dues of the stock that were unpaid, or issued and not yet due, when the books begin."""
    parts: dict[str, list[pa.Table]] = {"instalments": [], "invoices": []}
    line = credit.behind(state, state["bucket"])
    company = state["kind"] == COMPANY
    for back in range(hazard.BUCKETS, -1, -1):
        loans = np.flatnonzero(state["has_loan"] & (state["bucket"] >= back)) if back else np.array([], dtype=int)
        parts["instalments"].append(credit.schedule(state, loans, np.full(len(loans), month - back)))
        traders = np.flatnonzero(credit.has_revolving(state) & company & (line >= back))
        parts["invoices"].append(credit.invoices(state, traders, np.full(len(traders), month - back)))
    carried = {name: pa.concat_tables(tables) for name, tables in parts.items()}
    return {name: _known_at_least(name, rows, start) for name, rows in carried.items()}


def _known_at_least(name: str, rows: pa.Table, day: int) -> pa.Table:
    """Return the rows, none of them known before `day`."""
    known = np.maximum(rows[KNOWN[name]].to_numpy().astype("datetime64[D]").astype(np.int64), day)
    return rows.set_column(rows.column_names.index(KNOWN[name]), KNOWN[name], dates(known))


def _chunk(world: World, chunk: int, size: int, first: int, truth: Array) -> Iterator[Month]:
    start = int(first_day(first))
    state = _numbered(cohort(stream(world, chunk, first - 1, 0), first, int(size * STOCK_SHARE), stock=True), chunk, 0)
    already = len(state["kind"])
    opening = _arrivals(world, chunk, first - 1, state, start, year=2021 + first // 12 - 2)
    opening = {name: _known_at_least(name, rows, start) for name, rows in opening.items()}
    later: dict[str, list[pa.Table]] = {name: [] for name in KNOWN}
    for name, rows in _carried_in(state, first, start).items():
        later[name].append(rows)
    for name, rows in opening.items():
        if name != "invoices":  # those due in the first month are among the carried in
            later[name].append(rows)
    owners = np.flatnonzero(state["kind"] == COMPANY)
    last_year = 2021 + first // 12 - 1
    later["accounts"].append(context.accounts(stream(world, chunk, first - 1, 12), state, owners, last_year, start))

    for month in range(first, first + world.months):
        move = life.advance(stream(world, chunk, month, 2), state, month)
        life.renew(stream(world, chunk, month, 3), state, move, month)
        fresh = cohort(stream(world, chunk, month, 0), month, _joiners(size, month - first), stock=False)
        fresh = _numbered(fresh, chunk, already)
        already += len(fresh["kind"])
        arrivals = _arrivals(world, chunk, month, fresh, start, year=2021 + month // 12 - 1)
        move = life.joined(move, life.at_rest(fresh))
        state = life.joined(state, fresh)

        rows = _books(world, chunk, month, first, state, move)
        for name, arrived in arrivals.items():
            rows[name] = pa.concat_tables([arrived, rows[name]]) if name in rows else arrived
        due: dict[str, pa.Table] = {}
        for name in KNOWN:
            pending = [*later[name], *([rows[name]] if name in rows else [])]
            if pending:
                known_now, still = _split(name, pa.concat_tables(pending), month)
                later[name] = [still] if still.num_rows else []
                if known_now.num_rows:
                    due[name] = known_now

        stays = ~(move["left"] | move["written_off"])
        state = life.select(state, stays)
        yield Month(chunk, month, due, _truth(state, month, truth[month - first]))


def _split(name: str, rows: pa.Table, month: int) -> tuple[pa.Table, pa.Table]:
    """Return the rows known by the end of `month`, and those still to become known."""
    known = rows[KNOWN[name]].to_numpy().astype("datetime64[D]").astype(np.int64)
    now = known <= last_day(month)
    return (rows, rows.slice(0, 0)) if now.all() else (rows.filter(pa.array(now)), rows.filter(pa.array(~now)))


def _truth(state: State, month: int, pd: Array) -> pa.Table:
    """Return the true PD on the first day after `month` of everyone with an open credit who is not in default."""
    rows = np.flatnonzero(state["bucket"] < hazard.DEFAULT)
    few = life.select(state, rows)
    value = pd[few["type"], few["stress"] * hazard.BUCKETS + few["bucket"], life.clock_index(few)]
    return table(
        {
            "customer_id": pa.array(few["number"]).cast(pa.string()),
            "as_of": dates(np.full(len(rows), first_day(month + 1))),
            "true_pd": pa.array(value),
        }
    )


def _books(world: World, chunk: int, month: int, first: int, state: State, move: life.Move) -> dict[str, pa.Table]:
    """Return the rows that `month` leaves in each table, whenever they become known."""
    start = int(first_day(first))
    lot = (chunk * 2000 + month - first) * 10_000_000
    minimum = credit.use_lines(stream(world, chunk, month, 4), state)
    company = state["kind"] == COMPANY
    paying = ~move["called"] & ~move["fresh"]
    went_on = (state["bucket"] < hazard.DEFAULT) & ~move["left"] & ~move["fresh"]
    due = np.flatnonzero(state["has_loan"] & paying)
    billed = np.flatnonzero(credit.has_revolving(state) & company & went_on)
    renewed = np.flatnonzero(move["renewed"])
    old = state | {"loan_number": state["loan_number"] - move["renewed"], "instalment": move["instalment"]}
    opened = credit.bureau_step(stream(world, chunk, month, 5), state, month)
    rows = {
        "contracts": credit.contracts(state, renewed, revolving=False, start=start),
        "instalments": credit.schedule(old, due, np.full(len(due), month)),
        "invoices": credit.invoices(state, billed, np.full(len(billed), month + 1)),
        "receipts": credit.payments(stream(world, chunk, month, 6), old, move, month, minimum, lot),
        "month_ends": credit.statements(state, move, month, minimum),
        "movements": money.movements(
            stream(world, chunk, month, 7), state, move, month, world.transactions_per_month, lot
        ),
        "bureau_lines": credit.bureau_lines(stream(world, chunk, month, 8), state, np.flatnonzero(opened), start),
        "bureau_months": credit.bureau_months(stream(world, chunk, month, 9), state, month),
        "mentions": context.mentions(stream(world, chunk, month, 10), state, month, lot),
    }
    rng = stream(world, chunk, month, 11)
    moved_up = np.flatnonzero((rng.random(len(company)) < 0.002) & (state["segment"] < 2) & ~move["fresh"])
    state["segment"][moved_up] += 1
    rows["clients"] = context.clients(state, moved_up, np.full(len(moved_up), last_day(month)))
    owners = np.flatnonzero(company)
    if month % 12 == 11:
        rows["accounts"] = context.accounts(rng, state, owners, 2021 + month // 12, start)
    if month % 3 == 0:
        rows["standings"] = context.standings(rng, state, owners, month)
        if chunk == 0:
            rows["sectors"] = context.sectors(rng, month)
    return rows

"""A mapping laid out for its files: payments split off their instalments, globs replaced by the files' columns.

Both are plain rewritings from mapping to mapping, so that nothing after them knows of either.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable

from features.mapping import PAID, Attributes, Block, Mapping, is_glob, snake


def split_payments(mapping: Mapping) -> Mapping:
    """Split instalment blocks that also say what was paid: a payment is another fact, known when it was made."""
    tables = dict(mapping.tables)
    payments = []
    due = []
    for block in tables.get("instalments", []):
        paid = {name: sql for name, sql in block.columns.items() if name in PAID}
        rest = {name: sql for name, sql in block.columns.items() if name not in PAID}
        due.append(block.model_copy(update={"columns": rest}))
        if "paid_on" not in paid:
            continue
        columns = {
            "credit_id": rest.get("credit_id", ""),
            "paid_on": paid["paid_on"],
            "amount": paid.get("amount_paid", rest.get("amount", "")),
            "due_on": rest.get("due_on", ""),
        }
        columns |= {name: paid[old] for old, name in PAID.items() if old in paid and name not in columns}
        made = f"({_column(paid['paid_on'])}) is not null"
        where = f"({block.where}) and {made}" if block.where else made
        update = {"columns": columns, "where": where, "attributes": Attributes()}
        payments.append(block.model_copy(update=update))
    if not payments:
        return mapping
    tables["instalments"] = due
    tables["payments"] = [*tables.get("payments", []), *payments]
    return mapping.model_copy(update={"tables": tables})


def _column(sql: str) -> str:
    """Return SQL in which a column's bare name with unusual characters is quoted."""
    return sql if re.search(r"[(),'\"]|\s-\s|^\w+$|^\w+\.\w+$", sql) else '"' + sql + '"'


def expanded(mapping: Mapping, columns_of: Callable[[Block], Iterable[str]]) -> Mapping:
    """Replace globs among the attributes by the columns of the block's files that nothing else of the block names.

    A glob never takes a column that `columns`, `where` or another attribute of the block uses, the outcome among them.
    """
    tables = {}
    for table, blocks in mapping.tables.items():
        tables[table] = [
            block.model_copy(
                update={"attributes": _expand(block, columns_of(block), {*mapping.contract(table).columns, "known_on"})}
            )
            if any(is_glob(name) for name in [*block.attributes.numeric, *block.attributes.categorical])
            else block
            for block in blocks
        ]
    return mapping.model_copy(update={"tables": tables})


def _expand(block: Block, columns: Iterable[str], taken: set[str]) -> Attributes:
    """Return a block's attributes with its globs replaced; a name that is `taken` or used gets a number."""
    kinds = {"numeric": dict(block.attributes.numeric), "categorical": dict(block.attributes.categorical)}
    texts = [*block.columns.values(), block.where or ""]
    texts += [sql for values in kinds.values() for name, sql in values.items() if not is_glob(name)]
    free = [column for column in columns if not any(re.search(rf"(?<!\w){re.escape(column)}(?!\w)", t) for t in texts)]
    for values in kinds.values():
        for glob in [name for name in values if is_glob(name)]:
            del values[glob]
            for column in [column for column in free if fnmatch.fnmatchcase(column, glob)]:
                free.remove(column)
                base = snake(column)
                used = {*taken, *kinds["numeric"], *kinds["categorical"]}
                names = (base, *(f"{base}_{number}" for number in range(2, 10_000)))
                values[next(name for name in names if name not in used)] = column
    return Attributes(numeric=kinds["numeric"], categorical=kinds["categorical"])

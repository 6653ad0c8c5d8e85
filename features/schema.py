"""The JSON Schema of a mapping file, from which editors complete and check: data/sources/mapping.schema.json.

`python -m features.schema > data/sources/mapping.schema.json` writes it anew; a test says when it is stale.
"""

from __future__ import annotations

import copy
import json
from typing import Any

from features.mapping import PAID, Mapping
from features.tables import CONTRACTS, Contract


def mapping_schema() -> dict[str, Any]:
    """Return the JSON Schema of a mapping file: what a person may write, each canonical table with its own columns."""
    schema = Mapping.model_json_schema(mode="validation")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "Bellwether mapping"
    schema["description"] = f"Canonical tables: {', '.join(CONTRACTS)}; any other name is a generic history."
    block = schema["$defs"]["Block"]
    for name, contract in CONTRACTS.items():
        own = copy.deepcopy(block)
        own["title"] = name
        own["description"] = f"One row for each {contract.grain}."
        own["properties"]["columns"] = _columns(contract, block["properties"]["columns"]["additionalProperties"])
        schema["$defs"][name] = own
    tables = schema["properties"]["tables"]
    tables["properties"] = {
        name: {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "array", "items": {"$ref": f"#/$defs/{name}"}}]}
        for name in CONTRACTS
    }
    return schema


def _columns(contract: Contract, value: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a table's `columns`: its names with their sentences, and no others."""
    said = {
        name: f"{spec.sentence}. {spec.type}{', required' if name in contract.required() else ''}"
        for name, spec in contract.columns.items()
    }
    said["known_on"] = (
        "the day from which we could have known the row. DATE; without it: the event's date + known_after"
    )
    if contract.name == "instalments":
        said |= dict.fromkeys(PAID, "of the payment in the same line; it becomes a row of `payments`")
    return {
        "type": "object",
        "title": "Columns",
        "description": "canonical name: SQL expression (DuckDB) over the file's columns",
        "properties": {name: {**value, "description": sentence} for name, sentence in said.items()},
        "additionalProperties": False,
    }


def schema_text() -> str:
    """Return the schema as the text of its file."""
    return json.dumps(mapping_schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")

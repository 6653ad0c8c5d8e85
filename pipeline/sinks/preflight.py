"""What is compared before anything is written: the tenant's fields with what the mapping sends into them."""

from __future__ import annotations

from features.errors import Problem
from pipeline.sinks.interface import Connector, TenantField, Wanted
from pipeline.sinks.mapping import Mapping

ADD = "Add it in the CRM, let `sync --create-fields` do it where it can, or correct the mapping."


def faults(
    wanted: dict[str, tuple[Wanted, int]], there: dict[str, TenantField], types: dict[str, tuple[str, ...]]
) -> list[Problem]:
    """Return every field that is missing, of another type, too short, too coarse or without an option."""
    problems = []
    for name, (want, longest) in wanted.items():
        field = there.get(name)
        if field is None:
            problems.append(Problem(f"field {name}", want.described(), "no such field", ADD))
            continue
        if field.type not in types[want.kind]:
            allowed = " or ".join(types[want.kind])
            problems.append(Problem(f"field {name}", f"of type {allowed}", field.type, "Correct the mapping's kind."))
        if field.length is not None and longest > field.length:
            long = f"{longest} {'digits' if want.kind == 'integer' else 'characters'} long"
            problems.append(Problem(f"field {name}", long, f"{field.length}", "Lengthen it, or map another."))
        if want.kind == "number" and field.decimals is not None and want.digits > field.decimals:
            problems.append(
                Problem(
                    f"field {name}", f"of {want.digits} decimals", f"{field.decimals}", "Lower `digits`, or widen it."
                )
            )
        if want.kind == "choice" and field.choices is not None:
            absent = sorted(set(want.choices) - set(field.choices))
            if absent:
                remedy = "Add the options in the CRM, or say in `values:` which of its options stands for each."
                problems.append(Problem(f"field {name}", "a list with every option", f"no {', '.join(absent)}", remedy))
        if want.unique and field.unique is False:
            remedy = "Mark it `do not allow duplicate values`: one customer must be one record."
            problems.append(Problem(f"field {name}", "a key without duplicates", "one that allows them", remedy))
    return problems


def constant_faults(mapping: Mapping, there: dict[str, TenantField]) -> list[Problem]:
    """Return every constant whose field is missing, too short or without that option; `$...` names no field.

    Its type is not compared: what kind of record it is, is a type of its own.
    """
    problems = []
    for name, value in mapping.constants.items():
        field = there.get(name)
        where = f"field {name} of `constants`"
        if name.startswith("$"):
            continue
        if field is None:
            problems.append(Problem(where, f"a field that takes {value}", "no such field",
                                    "Have it added in the CRM, or correct or remove the line."))  # fmt: skip
        elif field.choices is not None and value not in field.choices:
            remedy = "Add the option in the CRM, or write one of its options into the mapping."
            problems.append(Problem(where, f"a list with the option {value}", "a list without it", remedy))
        elif field.length is not None and len(value) > field.length:
            long = f"{len(value)} characters long"
            problems.append(Problem(where, long, f"{field.length}", "Lengthen it, or map another."))
    return problems


def missing(wanted: dict[str, tuple[Wanted, int]], there: dict[str, TenantField]) -> list[Wanted]:
    """Return the fields that have to be made."""
    return [want for name, (want, _) in wanted.items() if name not in there]


def made(connector: Connector, wanted: dict[str, tuple[Wanted, int]]) -> list[str]:
    """Make what is missing; return the sentences of what a person must do instead."""
    absent = missing(wanted, connector.fields())
    by_hand = [f"to be added by an administrator: {want.described()}" for want in absent if want.kind == "lookup"]
    ours = [want for want in absent if want.kind != "lookup"]
    return by_hand + (connector.create_fields(ours) if ours else [])

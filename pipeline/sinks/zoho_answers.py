"""What Zoho CRM answers: shapes that are checked before an answer is believed, and what became of each row."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field, StringConstraints, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from pipeline.sinks.calls import Answer, fits
from pipeline.sinks.interface import Kind, Outcome, Row, TenantField, Wanted

HELD = {"RECORD_LOCKED", "DEPENDENT_SERVICE_ERROR", "INTERNAL_ERROR", "ALREADY_MODIFIED"}  # a row's, that may pass
OF_THE_ROWS = {"INVALID_DATA", "MANDATORY_NOT_FOUND", "DUPLICATE_DATA", "MULTIPLE_OR_MULTI_ERRORS", "NOT_APPROVED",
               "DEPENDENT_FIELD_MISSING", "DEPENDENT_MISMATCH"}  # fmt: skip
MADE: dict[Kind, dict[str, Any]] = {
    "number": {"data_type": "double", "length": 16}, "integer": {"data_type": "integer", "length": 9},
    "choice": {"data_type": "picklist"}, "date": {"data_type": "date"}, "boolean": {"data_type": "boolean"},
}  # fmt: skip
Text = Annotated[str, StringConstraints(min_length=1)]


def _or_unknown(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """Return what a field says of itself, null where that cannot be read: it may be none that is mapped."""
    try:
        return read(value)
    except ValidationError:
        return None


class _Option(BaseModel):
    display_value: str | int | float | None = None
    actual_value: str | int | float | None = None

    def value(self) -> str:
        return str(self.display_value if self.actual_value is None else self.actual_value)


class _Described(BaseModel):
    api_name: Text
    data_type: Annotated[str | None, WrapValidator(_or_unknown)] = None
    length: Annotated[int | None, WrapValidator(_or_unknown)] = None
    decimal_place: Annotated[int | None, WrapValidator(_or_unknown)] = None
    unique: Any = None
    pick_list_values: Annotated[list[_Option] | None, WrapValidator(_or_unknown)] = None


class Described(BaseModel):
    """Of `settings/fields`, read."""

    fields_: list[_Described] = Field(alias="fields")


class Made(BaseModel):
    """Of `settings/fields`, written."""

    fields_: list[Any] = Field(alias="fields")


class _Record(BaseModel):
    id: Text | int


class Found(BaseModel):
    """Of a query."""

    data: list[_Record]


class _Info(BaseModel):
    more_records: bool | None = None
    page: int | None = None
    next_page_token: str | None = None


class Listed(Found):
    """Of a page of records."""

    info: _Info


class _Element(BaseModel):
    code: Text


class Upserted(BaseModel):
    """Of an upsert: an element for each row."""

    data: list[_Element]


def own(answer: Answer, shape: type[BaseModel], empty: Sequence[int]) -> bool:
    """Tell whether an answer is one that the service wrote for this request, be it an error.

    What was cut on the way, or comes from something that stands between, is no word on what was done.
    """
    if answer.status in empty:
        return True
    if not answer.states_itself:
        return answer.status >= 400
    if fits(shape, answer.body):
        return True
    flat = isinstance(answer.body, dict) and "data" not in answer.body and bool(code_of(answer.body))
    return flat and (answer.status >= 400 or code_of(answer.body) in OF_THE_ROWS)


def code_of(body: Any) -> str:
    """Return an answer's code, empty where it has none."""
    code = body.get("code") if isinstance(body, dict) else None
    return code if isinstance(code, str) else ""


def word(said: str) -> str:
    """Return a code fit to be printed."""
    return said if re.fullmatch(r"[A-Za-z_ ]{1,60}", said) else "no known code"


def written(moment: int) -> str:
    """Return milliseconds since 1970 as the service writes a point in time."""
    return dt.datetime.fromtimestamp(moment // 1000, dt.UTC).isoformat()


def described(body: Any) -> dict[str, TenantField] | None:
    """Return a module's fields as its description says; null where it is none."""
    if not fits(Described, body):
        return None
    return {
        each.api_name: TenantField(
            each.api_name, each.data_type or "", each.length, each.decimal_place, bool(each.unique),
            tuple(option.value() for option in each.pick_list_values or ()) if each.data_type == "picklist" else None,
        )
        for each in Described.model_validate(body).fields_
    }  # fmt: skip


def made(field: Wanted) -> dict[str, Any]:
    """Return the body of a field that is to be made."""
    label = {"field_label": field.label}
    if field.kind == "text" and field.length > 255:
        return label | {"data_type": "textarea", "length": 2000, "textarea": {"type": "small"}}
    if field.kind == "text":
        unique = {"unique": {"case_sensitive": False}} if field.unique else {}
        return label | {"data_type": "text", "length": field.length} | unique
    more: dict[str, Any] = {"decimal_place": field.digits} if field.kind == "number" else {}
    if field.kind == "choice":
        more = {"pick_list_values": [{"display_value": each, "actual_value": each} for each in field.choices]}
    return label | MADE[field.kind] | more


def outcomes(rows: Sequence[Row], results: Sequence[Any]) -> Iterator[Outcome]:
    """Yield what became of each row, all of them lost where the answers are not the rows'."""
    if len(results) == len(rows) and all(map(_belongs, range(len(rows)), rows, results)):
        for row, result in zip(rows, results, strict=True):
            yield outcome(row, result, sure=len(rows) == 1)
    else:
        for row in rows:
            yield Outcome(row.key, "lost", None, "NO_ANSWER", "answers that are not the rows'")


def _details(result: Any) -> dict[str, Any]:
    details = result.get("details")
    return details if isinstance(details, dict) else {}


def _belongs(place: int, row: Row, result: Any) -> bool:
    """Tell whether an element is the row's own, as far as it says: order is seen in examples, and promised nowhere."""
    if code_of(result) == "SUCCESS":
        return row.record_id is None or str(_details(result).get("id", row.record_id)) == row.record_id
    stated = re.match(r"\$\.data\[(\d+)\]", str(_details(result).get("json_path", "")))
    return stated is None or int(stated[1]) == place


def outcome(row: Row, result: Any, *, sure: bool) -> Outcome:
    """Return what became of a row by its own element of the answer.

    sure: the element can be no other row's. Where it could, the record that was made is left to a lookup.
    """
    code, details = code_of(result), _details(result)
    if code == "SUCCESS":
        made_id = details.get("id") if sure else None
        return Outcome(row.key, "done", row.record_id or (str(made_id) if made_id else None))
    message = " ".join(str(each) for each in (result.get("message", ""), details.get("api_name", "")) if each)
    return Outcome(row.key, "again" if code in HELD else "rejected", None, code, message)

"""What a person asks of the published model: score a file of features, explain one customer.

Both answer by the bundle that was published (data/publish/current/scorer), with every file held against its manifest,
so that what is said here is what the table says.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.errors import ConfigurationRefused, DataRefused, IntegrityRefused, Problem
from models import reasons
from models.grades import Scale
from pipeline import answers, bundle, explainer, versions
from pipeline import params as parameters
from pipeline.score import FEATURES, inputs_of, read_features

READERS = {".parquet": "read_parquet", ".csv": "read_csv", ".json": "read_json", ".jsonl": "read_json"}
ANSWER = ("pd_raw", "pd", "pd_low", "pd_high", "score", "grade")
WIDTH = 40  # characters of the longest bar


def published() -> dict[str, bytes]:
    """Return the published bundle's files; refuse (exit code 4) where nothing is published."""
    folder = versions.CURRENT / "scorer"
    if not folder.exists():
        raise ConfigurationRefused(
            Problem(str(versions.CURRENT), "a published version", "none", "Publish one: `python -m pipeline run`.")
        )
    return bundle.read(folder)


def read_rows(path: Path, inputs: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows of a file of features: a number as a number, a category as text, whatever the file made of them.

    An empty cell of csv is missing, quoted or not; an empty text of the other kinds is a category of its own.
    Refuses (exit code 4) a file that is not there or of no known kind, and (exit code 2) cells that are no numbers, all
    columns together.
    """
    import duckdb

    reader = READERS.get(path.suffix.lower())
    if reader is None or not path.is_file():
        must = f"a file of features ({', '.join(READERS)}) or a folder of raw files"
        raise ConfigurationRefused(Problem(str(path), must, "none", "Name one; a file has a column for each feature."))
    text = ", all_varchar = true" if reader == "read_csv" else ""
    with duckdb.connect() as connection:
        try:
            frame = connection.execute(f"FROM {reader}(?{text})", [str(path)]).df()
        except duckdb.Error as error:
            first = str(error).splitlines()[0][:200]
            raise DataRefused(Problem(str(path), "readable rows", first, "Write it again.")) from None
    problems = []
    for each in inputs:
        if each["name"] not in frame:
            continue
        values = frame[each["name"]]
        if each["kind"] == "numeric":
            numbers = pd.to_numeric(values, errors="coerce").astype(float)
            wrong = int((numbers.isna() & values.notna() & (values.astype(str).str.lower() != "nan")).sum())
            if wrong:
                problems.append(
                    Problem(f"{path}: {each['name']}", "numbers", f"{wrong:,} cells that are none", "Correct them.")
                )
            frame[each["name"]] = numbers
        else:
            frame[each["name"]] = values.map(str, na_action="ignore").astype(object)
    if problems:
        raise DataRefused(problems)
    return frame


def score_file(path: Path, out: Path | None) -> int:
    """Score a file of features and print the answers, or write them to `out` (csv or parquet); return the exit code.

    Every row is answered, in the file's order; its columns that are no features come along. Refused (exit code 4): a
    model that also scores child records, which a file of features does not hold.
    """
    from models.scorer import Scorer

    answers.check(out)
    files = published()
    scorer, inputs = Scorer.from_files(files), inputs_of(files)
    scorer.needs_features_alone(str(path))
    frame = read_rows(path, inputs)
    names = {each["name"] for each in inputs}
    scored = scorer.score(frame)
    answer = pd.concat([frame[[name for name in frame if name not in names and name not in ANSWER]], scored], axis=1)
    if out is None:
        print(answer.to_string(index=False, max_rows=60, float_format=lambda value: f"{value:.4f}"))
    else:
        answers.write(_as_table(answer), out)
    missing = frame[sorted(names)].isna().to_numpy().mean() if len(frame) else 0.0
    print(f"score: {len(answer):,} rows by model {bundle.manifest(versions.CURRENT / 'scorer')['model_version']}, "
          f"{missing:.1%} of their features missing{f'; written to {out}' if out else ''}")  # fmt: skip
    return 0


def _as_table(answer: pd.DataFrame) -> pa.Table:
    """Return the answers as Arrow; what a file of JSON nests in a cell becomes its text."""
    nested = [
        name for name in answer if answer[name].map(lambda cell: isinstance(cell, dict | list | np.ndarray)).any()
    ]
    for name in nested:
        answer[name] = answer[name].map(str, na_action="ignore")
    return pa.Table.from_pandas(answer, preserve_index=False).replace_schema_metadata(None)


def explain_customer(customer: str, picture: Path | None) -> int:
    """Print what is published of one customer and what every family of features adds; draw it into `picture` if asked.

    Refuses (exit code 4) a customer who is not in the published table, and (exit code 7) features of another run than
    the published one.
    """
    table = pq.read_table(
        versions.CURRENT / "scored_customers.parquet", filters=pc.field("customer_id") == customer
    ).to_pylist() if versions.CURRENT.exists() else []  # fmt: skip
    files = published()
    if not table:
        must = "a customer of the published table"
        raise ConfigurationRefused(Problem("customer", must, "none of that id", "See scored_customers.parquet."))
    row, language = table[0], parameters.language()
    families, points, usual = _families(customer, row, files, language)
    print("\n".join([*facts(row), *overridden(customer)]))
    order = np.argsort(-points, kind="stable")
    longest, most = max(map(len, families)), max(float(np.abs(points).max()), 1e-9)
    print(
        f"\nevery family, in points lost (█) or won (░) against a usual customer without default ({usual:+.1f} in all):"
    )
    for place in order:
        bar = ("█" if points[place] > 0 else "░") * round(WIDTH * abs(points[place]) / most)
        print(f"  {families[place]:<{longest}}  {points[place]:+8.2f}  {bar}")
    if picture is not None:
        _draw(picture, row, [families[place] for place in order], points[order])
        print(f"\npicture: {picture}")
    return 0


def _families(
    customer: str, row: dict[str, Any], files: dict[str, bytes], language: str
) -> tuple[tuple[str, ...], np.ndarray, float]:
    """Return the families, what each costs this customer in points, and the sum: margin against the reference's."""
    from models.scorer import Scorer

    scorer, inputs = Scorer.from_files(files), inputs_of(files)
    which = (pc.field("customer_id") == customer) & (pc.field("months_back") == 0)
    frame = read_features(inputs, ["customer_id", "as_of"], which).to_pandas()
    if len(frame) != 1 or frame["as_of"].iloc[0] != row["as_of"] or scorer.score(frame)["pd"].iloc[0] != row["pd_12m"]:
        raise IntegrityRefused(
            Problem(str(FEATURES), f"the features of the published run {row['run_id']}", "another run's",
                    "Run the pipeline, then ask again.")
        )  # fmt: skip
    scale = Scale.from_json(files["grades.json"])
    terms = reasons.terms_of(inputs, pd.read_parquet(io.BytesIO(files["catalogue.parquet"])), language)
    reference = pd.read_parquet(io.BytesIO(files["reference.parquet"]))
    contributions = explainer.contributor(scorer.booster, "kernel")
    usual, own = (contributions(scorer.matrix(rows)) for rows in (reference, frame))
    families, mass = reasons.by_family(own[:, :-1] - usual[:, :-1].mean(axis=0), terms)
    points = mass[0] * scale.points_a_unit
    return families, points, float(points.sum())


def facts(row: dict[str, Any]) -> list[str]:
    """Return what the table says of a customer, line by line."""

    def known(name: str, form: str = "{}") -> str:
        return form.format(row[name]) if row.get(name) is not None else "-"

    before = f"the month before {known('grade_previous')}, published before {known('grade_published_before')}"
    pd_ = f"PD {row['pd_12m']:.4f} ({row['pd_low']:.4f} to {row['pd_high']:.4f})"
    odd = f"{row['missing_share']:.0%} of the features missing, {known('out_of_range')} outside the range of training"
    limits = [known(name, "{:,.0f}") for name in ("credit_limit", "credit_limit_recommended", "exposure")]
    lines = [
        f"customer {row['customer_id']} on {row['as_of']}, run {row['run_id']}, model {row['model_version']}",
        f"  {pd_}, score {row['score']}, grade {row['grade']} ({before})",
        f"  limit {limits[0]}, recommended {limits[1]} (by {known('limit_rule')}), exposure {limits[2]}",
        f"  term {known('payment_term_days')} days, action {known('action')}, next review {known('next_review_on')}",
        f"  alerts: {row['alerts'] or 'none'}",
        f"  {known('months_of_history')} months of history; {odd}",
        "reasons:",
    ]  # fmt: skip
    told = [n for n in range(1, 5) if row.get(f"reason_{n}_code") is not None]
    lines += [f"  {n}. {row[f'reason_{n}_text']}, costs {row[f'reason_{n}_points']:.1f} points" for n in told]
    return lines if told else [*lines, "  none: no family of features costs this customer points"]


def overridden(customer: str) -> list[str]:
    """Return what people decided of a customer in place of the policy, line by line."""
    path = versions.CURRENT / "overrides.parquet"
    rows = pq.read_table(path, filters=pc.field("customer_id") == customer).to_pylist() if path.exists() else []
    told = [f"  {r['field']} is {r['value']}, by {r['author']} until {r['until']}: {r['reason']}" for r in rows]
    return ["decided by a person:", *told] if told else []


def _draw(path: Path, row: dict[str, Any], families: list[str], points: np.ndarray) -> None:
    """Draw the families' points as bars; the ending of `path` says in which format."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.32 * len(families)), layout="constrained")
    axes = figure.subplots()
    axes.barh(families[::-1], points[::-1], color=["#b3423a" if each > 0 else "#3a7ab3" for each in points[::-1]])
    axes.axvline(0, color="#444", linewidth=0.8)
    axes.set_xlabel("points lost (right) or won (left) against the usual customer without default")
    axes.set_title(f"{row['customer_id']} on {row['as_of']}: PD {row['pd_12m']:.1%}, grade {row['grade']}")
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=120)
    except ValueError:
        must = "a picture's file (.png, .svg, .pdf)"
        raise ConfigurationRefused(Problem(str(path), must, path.suffix or "no ending", "Name one.")) from None

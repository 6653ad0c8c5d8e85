"""Makes README.md of the catalogue and of what the last `make test-faults` found; `make faults-table` runs it alone."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path

import yaml

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from fault_recording import results_file  # noqa: E402

HEAD = """# The fault battery

Written by `make test-faults` (`make faults-table` writes it again of what was found last): do not edit.
Each case stands in `catalogue.yaml`; tests name theirs by `@pytest.mark.fault("A1")`, in `tests/faults/` and wherever
else a test of it stands. `held`: every test of it passed; `not held`: one failed, or is marked as an expected failure;
`not run`: none passed. Every draw comes from one seed, which is printed: `FAULT_SEED=7 make test-faults` replays 7.

"""


def outcome_of(counts: Counter) -> str:
    """Return the word for a case's outcomes."""
    if counts["failed"]:
        return "not held"
    return "held" if counts["passed"] else "not run"


def table(catalogue: dict[str, dict[str, str]], results: dict[str, list]) -> str:
    """Return the page: a row a case, and the counts."""
    counts = {case: Counter() for case in catalogue}
    for cases, outcome in results.values():
        for case in cases:
            counts[case][outcome] += 1
    words = {case: outcome_of(found) for case, found in counts.items()}
    total = Counter(words.values())
    tests = Counter(outcome for _, outcome in results.values())
    said = f"{len(catalogue)} cases: {total['held']} held, {total['not held']} not held, {total['not run']} not run. "
    said += f"{sum(tests.values())} tests: "
    said += f"{tests['passed']} passed, {tests['failed']} failed or expected to, {tests['skipped']} skipped."
    lines = [
        said,
        "", "| id | case | expected | result | tests | note |", "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for case, facts in catalogue.items():
        passed, all_ = counts[case]["passed"], sum(counts[case].values())
        cells = (case, facts["case"], facts["expected"], words[case], f"{passed}/{all_}", facts.get("note", ""))
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return HEAD + "\n".join(lines) + "\n"


def main() -> None:
    """Write README.md."""
    catalogue = yaml.safe_load((HERE / "catalogue.yaml").read_text(encoding="utf-8"))
    path = results_file(HERE.parents[1])
    results = json.loads(path.read_text()) if path.exists() else {}
    page = table(catalogue, results)
    (HERE / "README.md").write_text(page, encoding="utf-8")
    print(page.split("\n\n")[2].splitlines()[0])


if __name__ == "__main__":
    main()

"""A delivery between two runs against a full re-score: time to a published alert, and memory above idle.

    .venv/bin/python -m benchmarks.watch --customers 1000000 --months 36

A workspace of its own is made: the simulated lender with so many customers and months, one run that publishes. Then
`watch` waits on an inbox (what it works out while it waits is told apart), and a delivery of `--events` bookings on
`--touched` customers is moved in. Alert: seconds from then until `current` leads to the version that holds it.
Reference, in the same workspace afterwards: `python -m pipeline run --as-of <the delivery's date>` with nothing to
train, so that every customer is observed, featurised, scored, explained, decided on and published anew. Both are
checked to say the same of the touched customers before any time is printed. The last line is JSON.
"""

from __future__ import annotations

import argparse
import datetime as dt
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).resolve().parents[1]
CURRENT = Path("data/publish/current")
TABLE = "scored_customers.parquet"
ASIDE = ("run_id", "data_version", "grade_published_before")  # the versions compared with differ: watch has published
SETTLE = 0.5
FIRST_DATE = 4  # months of history before the one date that trains
SOURCE = "lender"


def workspace(folder: Path, customers: int, months: int) -> None:
    """Copy what git knows into a repository of its own, with the parameters of this benchmark."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "notebooks/")) and name != "dvc.lock":
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to((ROOT / ".venv").resolve(), target_is_directory=True)
    path = folder / "params.yaml"
    params = yaml.safe_load(path.read_text(encoding="utf-8"))
    start = dt.date.fromisoformat(f"{params['simulate']['start']}-01")
    end = start.year * 12 + start.month - 1 + min(months, FIRST_DATE + params["observe"]["horizon_months"])
    until = f"{end // 12}-{end % 12 + 1:02d}-01"
    # training is not timed: one early date trains, of the few who were there, and a full re-score works it out again
    params["observe"] |= {"history_months": FIRST_DATE, "snapshot_months": 12, "left_early": "good"}
    params["tune"] |= {"trials": 2}
    params["train"] |= {"seeds": 1, "until": until}
    params["evaluate"] |= {"folds": 2, "repeats": 1}
    params["explain"] |= {"tried_customers": 100, "refit_rows": 2000}
    params["monitor"]["limits"] |= {name: {"stop": 99} for name in ("population_change", "score_psi")}  # so old a model
    # the lender's customers come within its first sixty months: so many are there after `months`
    params["simulate"] |= {"customers": round(customers * 60 / min(months, 60)), "months": months}
    path.write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "pipeline.simulate"], cwd=folder, check=True, capture_output=True)
    (folder / "data/raw/simulated").rename(folder / "data/raw" / SOURCE)  # a lender whose folder no stage empties
    mapping = (folder / "data/sources/simulated.yaml").read_text(encoding="utf-8")
    mapping = mapping.replace("name: simulated", f"name: {SOURCE}")
    (folder / f"data/sources/{SOURCE}.yaml").write_text(mapping, encoding="utf-8")
    path.write_text(yaml.safe_dump(params | {"source": SOURCE}, sort_keys=False), encoding="utf-8")
    git = ["git", "-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost"]
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "start"]):
        subprocess.run([*git, *command], cwd=folder, check=True, capture_output=True)


def pipeline(folder: Path, *arguments: str) -> tuple[float, float]:
    """Run a command of the pipeline; return its seconds and those of its processors."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    after, seconds = os.times(), time.perf_counter() - start
    if done.returncode:
        raise SystemExit(done.stdout[-3000:] + done.stderr[-3000:])
    return seconds, after.children_user + after.children_system - before.children_user - before.children_system


def delivery(folder: Path, events: int, touched: int) -> tuple[Path, str, list[str]]:
    """Write bookings of some published customers on the days after the run; return folder, as_of and customers."""
    current = read_manifest(folder)
    first = dt.date.fromisoformat(current["as_of"])
    draw = random.Random(7)
    everyone = pq.read_table(folder / CURRENT / TABLE, columns=["customer_id"])["customer_id"].to_pylist()
    who = sorted(draw.sample(everyone, min(touched, len(everyone))))
    lines = ["movement_no,client_no,booking_date,direction,value,balance,text_code,partner,entered_on"]
    for number in range(events):
        day = first + dt.timedelta(days=draw.randrange(9))
        customer = who[number % len(who)]
        amounts = f"{draw.randrange(1, 90000) / 100:.2f},{-draw.randrange(500)}.00"
        lines.append(f"9{number:09d},{customer},{day},D,{amounts},CASH,,{day}")
    made = folder / "made" / "between"
    made.mkdir(parents=True)
    (made / "movements.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    as_of = (first + dt.timedelta(days=10)).isoformat()
    stated = {"rows": events, "sha256": hashlib.sha256((made / "movements.csv").read_bytes()).hexdigest()}
    manifest = {"delivered_on": (first + dt.timedelta(days=9)).isoformat(), "as_of": as_of, "complete": False,
                "files": {"movements.csv": stated}}  # fmt: skip
    (made / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return made, as_of, who


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of what is current."""
    return dict(json.loads((folder / CURRENT / "manifest.json").read_text(encoding="utf-8")))


def memory(process: int, what: str) -> float:
    """Return a figure of a process's memory, in GiB: VmRSS now, VmHWM the most since it was last reset."""
    for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1]) / 2**20
    raise SystemExit(f"no {what}")


def watched(folder: Path, made: Path) -> dict[str, float]:
    """Let `watch` take the delivery; return its seconds, those of getting ready, of processors, and memory [GiB]."""
    inbox = folder / "inbox"
    inbox.mkdir()
    before, start = read_manifest(folder)["run_id"], time.perf_counter()
    command = [sys.executable, "-m", "pipeline", "watch", "inbox", "--settle", str(SETTLE), "--every", "0.2"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "waiting for deliveries" in line:
                break
        ready = time.perf_counter() - start
        idle, used = memory(process.pid, "VmRSS"), _processor(process.pid)
        Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="utf-8")
        start = time.perf_counter()
        made.rename(inbox / made.name)
        while read_manifest(folder)["run_id"] == before:
            if process.poll() is not None:
                raise SystemExit("".join(said) + process.stdout.read())
            time.sleep(0.05)
        seconds = time.perf_counter() - start
        found = {"ready": ready, "seconds": seconds, "extra": memory(process.pid, "VmHWM") - idle,
                 "processor": _processor(process.pid) - used}  # fmt: skip
        process.terminate()
        process.communicate()
    return found


def _processor(process: int) -> float:
    """Return the seconds of processors that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rows(folder: Path, who: list[str]) -> list[dict[str, Any]]:
    """Return the published rows of some customers, less what differs by its nature."""
    table = pq.read_table(folder / CURRENT / TABLE, filters=pc.field("customer_id").isin(who))
    return table.drop_columns(list(ASIDE)).to_pylist()


def main() -> None:
    """Measure, check that both say the same, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--customers", type=int, default=1_000_000)
    parser.add_argument("--months", type=int, default=36)
    parser.add_argument("--events", type=int, default=1_000)
    parser.add_argument("--touched", type=int, default=300)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bellwether-bench-") as scratch:
        folder = Path(scratch) / "project"
        workspace(folder, given.customers, given.months)
        pipeline(folder, "run")
        in_place = read_manifest(folder)["rows"]
        made, as_of, who = delivery(folder, given.events, given.touched)
        found = watched(folder, made)
        ours = rows(folder, who)
        rescore, processor = pipeline(folder, "run", "--as-of", as_of)
        if ours != rows(folder, who):
            raise SystemExit("the touched customers are not as a full run publishes them")
        print(f"equal: {len(ours):,} touched customers of {in_place:,}, as a full run at {as_of} publishes them")
        print(f"ready {found['ready']:.1f} s (once a period); alert {found['seconds']:.1f} s, processors "
              f"{found['processor']:.1f} s; full re-score {rescore:.1f} s, processors {processor:.1f} s")  # fmt: skip
        figures = {
            "customers": in_place, "months": given.months, "events": given.events, "touched": len(who),
            "ready_seconds": round(found["ready"], 2), "alert_seconds": round(found["seconds"], 2),
            "rescore_seconds": round(rescore, 2), "alert_over_rescore": round(found["seconds"] / rescore, 4),
            "processors_alert_over_rescore": round(found["processor"] / processor, 4),
            "extra_gib": round(found["extra"], 3),
        }  # fmt: skip
        print(json.dumps(figures))


if __name__ == "__main__":
    main()

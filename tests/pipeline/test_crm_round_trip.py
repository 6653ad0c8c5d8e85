"""CRM -> pull -> ingest -> features -> score -> sync -> CRM: a whole run on what a CRM holds, read back by other clients."""

from __future__ import annotations

import csv
import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from crm_servers import (
    FxiaokeTenant,
    ZohoTenant,
    quick,  # noqa: F401  short pauses, and credentials
    serve,
)
from test_crm import SDK, fxiaoke_tenant, zoho_tenant
from test_crm_pull import ACCOUNTS, Tower
from workspaces import ROOT, copy_project

from pipeline import simulate
from pipeline.sinks import pull, sync

SEGMENTS = {"industry": "sector_code", "region": "branch_region", "segment": "service_level"}
STANDING = {"market_share": "share", "brand": "brand", "product_uniqueness": "uniqueness", "relationship": "relations"}
YEARS = (24, 36, 48, 60)  # months after which the CRM is pulled


def moment(day: str) -> int:
    """Noon of a day in Shanghai, in milliseconds."""
    return int(dt.datetime.fromisoformat(f"{day}T12:00:00+08:00").timestamp() * 1000)


def told_by_the_crm(raw: Path) -> dict[str, pd.DataFrame]:
    """Take clients and standings out of the simulated deliveries: it is the CRM that knows them."""
    taken: dict[str, list[pd.DataFrame]] = {"clients": [], "standings": []}
    for folder in sorted(raw.iterdir()):
        stated = json.loads((folder / "manifest.json").read_text())
        for name, parts in taken.items():
            file = folder / f"{name}.csv"
            if file.exists():
                parts.append(pd.read_csv(file, dtype=str).assign(month=folder.name))
                file.unlink()
                del stated["files"][file.name]
        (folder / "manifest.json").write_text(json.dumps(stated))
    return {name: pd.concat(parts, ignore_index=True) for name, parts in taken.items()}


def typed_in(tower: Tower, known: dict[str, pd.DataFrame], numbers: dict[str, str], until: str) -> None:
    """Let people write into the CRM what became known up to a month: its present state, and when it last changed."""
    clients = known["clients"][known["clients"]["month"] <= until].sort_values(["client_no", "entered_on"])
    newest = clients.drop_duplicates("client_no", keep="last").set_index("client_no")
    standings = known["standings"][known["standings"]["month"] <= until].sort_values(["client_no", "scored_on"])
    scored = standings.drop_duplicates("client_no", keep="last").set_index("client_no")
    for client, row in newest.iterrows():
        values = {"kind": "company" if row["client_type"] == "F" else "person", "owner": f"desk {int(client) % 3}"}
        values |= {column: row[name] if isinstance(row[name], str) else None for column, name in SEGMENTS.items()}
        when = row["entered_on"]
        if client in scored.index:
            said = scored.loc[client]
            values |= {column: float(said[name]) * (100 if column == "market_share" else 1)
                       for column, name in STANDING.items() if isinstance(said[name], str)}  # fmt: skip
            when = max(when, said["scored_on"])
        tower.tenant.now = moment(when)
        numbers[client] = tower.account(numbers.get(client), key=client, **values)


def laid_out(system: str, folder: Path, tenant) -> Tower:
    """A tenant with the fields of both ways, in a project's folder."""
    both = zoho_tenant() if system == "zoho" else fxiaoke_tenant()
    held = (folder / "params.yaml").read_text()
    tower = Tower(system, folder, tenant)
    (folder / "params.yaml").write_text(held)
    for name, described in both.fields.items():
        tenant.fields.setdefault(name, described)
    grades = [f"{letter}{number}" for letter in "ABCDE" for number in (1, 2, 3)]
    actions = ["keep", "raise", "review", "reduce", "prepay", "stop"]
    for name, options in (("Risk_Grade", grades), ("Risk_Action", actions)):
        if system == "zoho":
            tenant.fields[name]["options"] = options
        else:
            tenant.fields[f"{name.lower()}__c"]["options"] = [{"label": each, "value": each} for each in options]
    name = "Customer_Kind" if system == "zoho" else "kind__c"
    tenant.fields[name] = {"data_type": "text"} if system == "zoho" else {"type": "text"}
    tower.mapping["pull"]["accounts"]["kind"] = {"field": name}
    ACCOUNTS.setdefault("kind", ("Customer_Kind", "text", "kind__c", "text"))
    return tower


@pytest.mark.slow
def test_what_a_crm_holds_is_scored_and_comes_back_to_it(tmp_path, monkeypatch):
    """Both systems give the same delivery; the run on it publishes; both hold what was published, for other clients too."""
    workspace = copy_project(tmp_path / "project")
    folder, raw = workspace.folder, workspace.folder / "data/raw/maker"
    raw.mkdir(parents=True)
    (tmp_path / "truth").mkdir()
    simulate.run(simulate.Params(customers=600), raw, tmp_path / "truth")
    known = told_by_the_crm(raw)
    shipped = {name: yaml.safe_load((ROOT / f"data/sources/{name}.yaml").read_text()) for name in ("simulated", "crm")}
    ours = {table: block for table, block in shipped["crm"]["tables"].items() if table in ("customers", "standings")}
    mapping = shipped["simulated"] | {"name": "maker", "tables": shipped["simulated"]["tables"] | ours}
    (folder / "data/sources/maker.yaml").write_text(yaml.safe_dump(mapping, sort_keys=False))
    small = {
        "tune": {"trials": 3}, "train": {"seeds": 1}, "featurise": {"windows_months": [3, 12]},
        "explain": {"tried_customers": 20, "refits": 2}, "promote": {"reference_rows": 200},
    }  # fmt: skip
    own = {"train": {"until": "2026-01-01"}, "observe": {"left_early": "good"}}
    workspace.set_params(small | {"source": "maker", "sources": {"maker": own}})
    monkeypatch.chdir(folder)
    clock = SimpleNamespace(time=lambda: 0)
    monkeypatch.setattr(pull, "time", clock)
    months = sorted(path.name for path in raw.iterdir())
    with serve(ZohoTenant()) as zoho, serve(FxiaokeTenant()) as fxiaoke:
        towers = [laid_out("zoho", folder, zoho), laid_out("fxiaoke", folder, fxiaoke)]
        numbers: list[dict[str, str]] = [{}, {}]
        for last in YEARS:
            for tower, held in zip(towers, numbers, strict=True):
                typed_in(tower, known, held, months[last - 1])
                tower.clock = lambda _: None  # the stand-in's own: the day after the month
                clock.time = lambda last=last: moment(f"{months[last - 1]}-28") / 1000 + 5 * 86_400
                source = "maker" if tower.system == "zoho" else "other"
                assert tower.pull(source=source) == 0
        same_deliveries(folder, numbers)
        done = workspace.pipeline("run", timeout=3000)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        table = pd.read_parquet("data/publish/current/scored_customers.parquet").set_index("customer_id")
        standing_is_that_of_the_crm(known["standings"], table)
        worklist = pq.read_table("data/publish/current/worklist/worklist.parquet").to_pandas()
        assert set(worklist["owner"]) <= {f"desk {k}" for k in range(3)}
        assert worklist["owner"].notna().all()
        before = {client: dict(zoho.records[number]) for client, number in numbers[0].items()}
        for tower in towers:
            assert sync.sync(tower.system, path=written(tower)) == 0
        for tower in towers:
            right_grades(tower, table)
        some = table.index[0]
        found = sdk_reads(zoho, folder, f"select id, Risk_Grade, Risk_PD from Accounts where Customer_Code in ('{some}') "
                          "limit 0, 200")  # fmt: skip
        assert found[0]["Risk_Grade"] == table.loc[some, "grade"]
        assert float(found[0]["Risk_PD"]) == pytest.approx(table.loc[some, "pd_12m"], abs=1e-6)
        assert len(zoho.records) == len(before), "no customer was made a second time"
        names = ("Industry", "Owner", "Market_Share")
        assert all(zoho.records[numbers[0][c]].get(n) == row.get(n) for c, row in before.items() for n in names)
        count = len(list(raw.glob("crm-*")))
        clock.time = lambda: moment("2026-06-01") / 1000
        assert towers[0].pull(source="maker") == 0
        assert len(list(raw.glob("crm-*"))) == count, "what we wrote ourselves says nothing new"


def right_grades(tower: Tower, table: pd.DataFrame) -> None:
    """Every customer's record holds what was published of him."""
    key, grade, score = (
        ("Customer_Code", "Risk_Grade", "Risk_Score") if tower.system == "zoho"
        else ("customer_code__c", "risk_grade__c", "risk_score__c")
    )  # fmt: skip
    held = {record[key]: record for record in tower.tenant.records.values()}
    assert {who: held[who][grade] for who in table.index} == table["grade"].to_dict()
    assert {who: int(held[who][score]) for who in table.index} == table["score"].to_dict()


def sdk_reads(tenant: ZohoTenant, folder: Path, query: str) -> list[dict]:
    """Ask the vendor's own client."""
    command = [sys.executable, "-W", "ignore", "-c", SDK, tenant.url, query]
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def written(tower: Tower) -> Path:
    path = tower.folder / f"{tower.system}-mapping.yaml"
    path.write_text(yaml.safe_dump(tower.mapping))
    return path


def same_deliveries(folder: Path, numbers: list[dict[str, str]]) -> None:
    """What both systems deliver is the same but for their own identifiers."""
    homes = [sorted((folder / "data/raw" / source).glob("crm-*")) for source in ("maker", "other")]
    assert len(homes[0]) == len(homes[1]) == len(YEARS)
    for one, other in zip(*homes, strict=True):
        for file in ("crm_accounts.csv", "crm_standings.csv"):
            rows = [
                list(csv.DictReader((home / file).read_text(encoding="utf-8").splitlines())) for home in (one, other)
            ]
            for part in rows:
                for row in part:
                    row.pop("record_id", None)
            assert rows[0] == rows[1]
            assert rows[0]


def standing_is_that_of_the_crm(standings: pd.DataFrame, table: pd.DataFrame) -> None:
    """The newest share that was scored before the run's date and pulled is the feature of every company."""
    rows = pd.read_parquet("data/featurise/scoring/features.parquet").query("months_back == 0").set_index("customer_id")
    newest = (
        standings.sort_values("scored_on").drop_duplicates("client_no", keep="last").set_index("client_no")["share"]
    )
    both = rows["standing_market_share_last"].to_frame("found").join(newest.astype(float).rename("said"), how="inner")
    both = both.loc[both.index.intersection(table.index)]
    assert len(both) > 50
    assert np.allclose(both["found"], both["said"], atol=1e-9)

"""What the environment is made of: `make sbom` writes it down, `make audit` holds lock, list and installation together.

    python -m pipeline.supply sbom     # requirements/sbom.cdx.json (CycloneDX 1.6) of requirements/run.lock
    python -m pipeline.supply audit    # also asks for known vulnerabilities; fails where it cannot answer

Advisories are files of the OSV form (one JSON object each) below the folder that BELLWETHER_ADVISORIES names, say a
copy of the Python Packaging Advisory Database; no network is used. An audit that cannot answer is no pass: without
advisories, with one that cannot be read or a copy older than `--max-age`, it ends with exit code 8.
"""

from __future__ import annotations

import argparse
import ensurepip
import importlib.metadata
import json
import os
import re
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from features.errors import GateRefused, IntegrityRefused, Problem, ServiceRefused
from pipeline.fingerprint import sha256
from pipeline.stage import execute, read_json, say, write_json

LOCK, WIDER = Path("requirements/run.lock"), Path("requirements/test.lock")
EXTRAS = (Path("requirements/spark.lock"), Path("requirements/cluster.lock"))
SBOM = Path("requirements/sbom.cdx.json")
ADVISORIES = "BELLWETHER_ADVISORIES"
PIN = re.compile(
    r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;]+)([^\n]*)\n((?:[ \t]+--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)
Pins = Mapping[str, tuple[str, tuple[str, ...]]]  # package -> version, hashes of its files


def canonical(name: str) -> str:
    """Return a package's name as packages are compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lock: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return package -> (version, SHA-256 of each file) of a lock; refuse (exit code 7) a line that pins no hash."""
    text = lock.read_text(encoding="utf-8")
    found = {
        canonical(name): (version, tuple(re.findall(r"sha256:([0-9a-f]{64})", hashes)))
        for name, version, _, hashes in PIN.findall(text)
    }
    rest = [line for line in PIN.sub("", text).splitlines() if line.strip() and not line.lstrip().startswith("#")]
    if rest or not found:
        words = rest[0].split("@")[0].strip()[:60] if rest else "no pin at all"
        must = "a pin with the SHA-256 of each file on every line"
        raise IntegrityRefused(
            Problem(str(lock), must, f"{len(rest)} other lines, first {words!r}", "Run `make lock`.")
        )
    return found


def bill(lock: Path = LOCK) -> dict[str, Any]:
    """Return the lock as a CycloneDX bill of materials: the same lock gives the same bytes."""
    components = [
        {
            "type": "library", "bom-ref": f"pkg:pypi/{name}@{version}", "name": name, "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
            "hashes": [{"alg": "SHA-256", "content": each} for each in sorted(hashes)],
        }
        for name, (version, hashes) in sorted(pins(lock).items())
    ]  # fmt: skip
    digest = sha256(lock)
    return {
        "bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1,
        "serialNumber": f"urn:uuid:{uuid.UUID(digest[:32], version=4)}",
        "metadata": {
            "component": {"type": "application", "name": "bellwether", "bom-ref": "bellwether"},
            "properties": [{"name": "bellwether:lock:sha256", "value": digest}],
        },
        "components": components,
    }  # fmt: skip


def installed() -> dict[str, str]:
    """Return package -> version of what this environment holds, but for the pip that Python itself brought.

    That one installs uv, by hashes, and nothing else; another pip counts as any package.
    """
    found = {canonical(each.metadata["Name"]): each.version for each in importlib.metadata.distributions()}
    if found.get("pip") == ensurepip.version():
        del found["pip"]
    return found


def differences(present: Mapping[str, str]) -> list[Problem]:
    """Return where lock, bill and installation differ: all of the lock is there, and nothing that no lock pins."""
    problems = []
    if not SBOM.exists() or read_json(SBOM) != json.loads(json.dumps(bill())):
        problems.append(Problem(str(SBOM), f"the packages of {LOCK}", "others, or no file", "Run `make sbom`."))
    locked = {name: version for name, (version, _) in pins(LOCK).items()}
    others: dict[str, set[str]] = {}
    for lock in (WIDER, *EXTRAS):
        for name, (version, _) in pins(lock).items() if lock.exists() else ():
            others.setdefault(name, set()).add(version)
    for name, version in sorted(locked.items()):
        found = present.get(name, "none")
        if found != version:
            problems.append(Problem(f"package {name}", f"version {version} of {LOCK}", found, "Run `make install`."))
    for name in sorted(present.keys() - locked.keys()):
        if present[name] not in others.get(name, set()):
            must = "in a lock with this version, or absent"
            problems.append(Problem(f"package {name}", must, present[name], "Remove it, or lock it."))
    return problems


def _advisories(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield every advisory; refuse (exit code 8) one that cannot be read: what it says is then unknown."""
    for path in sorted(folder.rglob("*.json")):
        try:
            advisory = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(advisory["id"], str) or not isinstance(advisory.get("affected", []), list):
                raise TypeError
        except (OSError, ValueError, KeyError, TypeError):
            must, remedy = "an advisory of the OSV form", "Copy the advisories anew."
            raise ServiceRefused(Problem(str(path), must, "something else", remedy)) from None
        yield path, advisory


def _hit(affected: Mapping[str, Any], version: str) -> bool:
    """Tell whether a version is affected; one that cannot be compared is."""
    from packaging.version import InvalidVersion, Version

    if version in affected.get("versions", []):
        return True
    try:
        own = Version(version)
        for span in affected.get("ranges", []):
            if span.get("type") != "ECOSYSTEM":
                continue
            inside = False
            for event in span["events"]:
                if "introduced" in event:
                    inside = inside or event["introduced"] == "0" or own >= Version(event["introduced"])
                elif "fixed" in event:
                    inside = inside and own < Version(event["fixed"])
                elif "last_affected" in event:
                    inside = inside and own <= Version(event["last_affected"])
            if inside:
                return True
    except (InvalidVersion, KeyError, TypeError):
        return True
    return False


def vulnerable(present: Mapping[str, str], folder: Path, oldest: datetime) -> list[Problem]:
    """Return each installed package that an advisory names, not withdrawn; refuse (exit code 8) where that is unknown.

    oldest: the newest advisory must have been changed since, or the copy is too old to say anything.
    """
    problems, newest, count = [], datetime.min.replace(tzinfo=UTC), 0
    for path, advisory in _advisories(folder):
        count += 1
        try:
            newest = max(newest, datetime.fromisoformat(advisory["modified"]))
        except (KeyError, ValueError, AttributeError, TypeError):
            raise ServiceRefused(Problem(str(path), "dated (modified)", "no such date", "Copy it anew.")) from None
        if advisory.get("withdrawn"):
            continue
        for affected in advisory.get("affected", []):
            package = affected.get("package", {})
            name = canonical(str(package.get("name", "")))
            if package.get("ecosystem") == "PyPI" and name in present and _hit(affected, present[name]):
                must = f"free of {advisory['id']}"
                problems.append(
                    Problem(f"package {name}", must, present[name], "Upgrade it: make lock UPGRADE=--upgrade.")
                )
                break
    if not count or newest < oldest:
        found = f"{count} advisories" + (f", the newest of {newest:%Y-%m-%d}" if count else "")
        raise ServiceRefused(
            Problem(str(folder), f"advisories of {oldest:%Y-%m-%d} or later", found, "Copy them anew.")
        )
    return problems


def audit(max_age: timedelta) -> None:
    """Refuse what differs (exit code 7), what is known to be vulnerable (3), and where nothing is known (8)."""
    present = installed()
    wrong = differences(present)
    if wrong:
        raise IntegrityRefused(wrong)
    say("audit", f"lock, {SBOM} and environment agree", packages=len(pins(LOCK)))
    named = os.environ.get(ADVISORIES, "")
    if not named or not Path(named).is_dir():
        must = "a folder of advisories (OSV), so that vulnerabilities can be known"
        raise ServiceRefused(Problem(ADVISORIES, must, "none", "Name a copy of the advisories; silence is no pass."))
    found = vulnerable(present, Path(named), datetime.now(UTC) - max_age)
    if found:
        raise GateRefused(found)
    say("audit", "no advisory names a package of this environment", packages=len(present))


def main(argv: Sequence[str] | None = None) -> None:
    """Write the bill, or audit."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.supply", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=("sbom", "audit"))
    parser.add_argument("--max-age", type=int, default=30, help="days that the newest advisory may be old (30)")
    arguments = parser.parse_args(argv)
    if arguments.what == "sbom":
        write_json(SBOM, bill())
        say("sbom", f"{SBOM} written", packages=len(pins(LOCK)))
    else:
        audit(timedelta(days=arguments.max_age))


if __name__ == "__main__":
    execute(sys.argv[1] if len(sys.argv) > 1 else "supply", main)

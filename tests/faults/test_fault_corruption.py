"""Mutated deliveries and artifacts, drawn from the printed seed: never exit code 1, never a hang, never silently other.

FAULT_MUTANTS says how many of each (default 2,000). Each is read by a process of its own, whose end is judged: one
that is killed by what it reads has an exit code below 0.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import os
import random
import re
import shutil
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest
from fault_ground import CUSTOMERS, Shop, tree
from workspaces import LOOSE

from pipeline import bundle, held, versions
from pipeline.stage import NOTE

fault = pytest.mark.fault
MUTANTS = int(os.environ.get("FAULT_MUTANTS", "2000"))
PARTS = 4  # so that they share the processes


def flipped(draw: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8])):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def cut(draw: random.Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data))]


def zeroed(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :]


def spliced(draw: random.Random, data: bytes) -> bytes:
    at = draw.randrange(len(data))
    return data[:at] + bytes(draw.randrange(256) for _ in range(draw.randrange(1, 40))) + data[at:]


def lines_lost(draw: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    for _ in range(draw.choice([1, 1, 5])):
        if len(lines) > 1:
            del lines[draw.randrange(len(lines))]
    return b"".join(lines)


def lines_again(draw: random.Random, data: bytes) -> bytes:
    lines = data.splitlines(keepends=True)
    return b"".join([*lines, draw.choice(lines)])


def columns_swapped(draw: random.Random, data: bytes) -> bytes:
    """Swap two columns in the rows but not in the header, or in the header alone."""
    rows = [line.split(b",") for line in data.splitlines()]
    one, two = draw.sample(range(len(rows[0])), 2)
    for row in rows[:1] if draw.random() < 0.5 else rows[1:]:
        if len(row) > max(one, two):
            row[one], row[two] = row[two], row[one]
    return b"\n".join(b",".join(row) for row in rows) + b"\n"


def types_changed(draw: random.Random, data: bytes) -> bytes:
    rows = [line.split(b",") for line in data.splitlines()]
    column = draw.randrange(len(rows[0]))
    text = draw.choice(
        [b"", b"NULL", b"1e9", b"nan", b"-", b"2021/13/45", b"true", "Ä".encode(), b'"', b"'", b"0x10", b"9" * 30]
    )
    for row in rows[1:] if draw.random() < 0.3 else draw.sample(rows[1:], 2):
        row[column] = text
    return b"\n".join(b",".join(row) for row in rows) + b"\n"


BYTES = (flipped, cut, zeroed, spliced)
ROWS = (lines_lost, lines_again, columns_swapped, types_changed)


NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d{1,3})?", re.IGNORECASE)
MONEY = {"moves": ("transactions", "amount", "value"), "loans": ("credits", "principal", "lent"),
         "states": ("statements", "balance", "owed"), "people": ("customers", None, None)}  # fmt: skip


def plain(data: bytes, column: str | None) -> tuple[int, Decimal]:
    """Read CSV as anyone would: how many records, and the sum of a column where it is a number of cents."""
    text = data.decode("utf-8-sig")
    header, *records = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    total = Decimal(0)
    if column:
        where = header.index(column)
        for row in records:
            cell = row[where].strip() if len(row) == len(header) else ""
            value = Decimal(cell) if NUMBER.fullmatch(cell) else Decimal(0)
            total += value if abs(value) < 10**16 and value == round(value, 2) else 0
    return len(records), total


def account(shop: Shop, table: str, money: str | None) -> tuple[int, Decimal]:
    """Return what the account of ingest says of the same: rows read, and their total."""
    blocks = shop.account(table)["blocks"]
    total = sum((Decimal(block["totals"][money]["read"]) for block in blocks), Decimal(0)) if money else Decimal(0)
    return sum(block["read"] for block in blocks), total


@fault("A7", "A11")
@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_deliveries(part, shop, fork, tmp_path):
    """Half with a manifest: there 7 always. Without: what a plain reading gives, or a refusal; the totals show it."""
    shop.lines = shop.lines[:60]
    shop.moves()
    sound = {path.name: path.read_bytes() for path in (shop.folder / "data/raw/shop").iterdir()}
    strict = (shop.folder / "params.yaml").read_text()
    forks = fork("ingest")
    codes: Counter[int] = Counter()
    wrong: list[str] = []
    for number in range(MUTANTS // PARTS):
        name = shop.draw.choice(["moves.csv", "moves.csv", "people.csv", "loans.csv", "states.csv"])
        how = shop.draw.choice(BYTES + ROWS)
        shutil.rmtree(shop.folder / "data/raw/shop")
        shutil.rmtree(shop.folder / "data/ingest", ignore_errors=True)
        changed = how(shop.draw, sound[name])
        while changed == sound[name]:
            changed = how(shop.draw, sound[name])
        read, final, stated = changed, name, number % 2 == 0
        if shop.draw.random() < 0.2:
            final, changed = f"{name}.gz", gzip.compress(changed, mtime=0)
            if shop.draw.random() < 0.5:
                changed, read = shop.draw.choice(BYTES)(shop.draw, changed), b""
        for each, data in sound.items():
            if each != name:
                shop.put(each, data)
        shop.put(final, changed)
        if stated:
            original = gzip.compress(sound[name], mtime=0) if final != name else sound[name]
            shop.manifest(files={final: {"sha256": hashlib.sha256(original).hexdigest()}})
        (shop.folder / "params.yaml").write_text(strict if shop.draw.random() < 0.3 else strict + LOOSE)
        code, said = forks.run("ingest", shop.folder, TMPDIR=str(shop.scratch))
        what = f"mutant {number}: {how.__name__} of {final}, manifest {stated}: {code} {said[-900:]}"
        codes[code] += 1
        # B3: of a column that no delivery ever had, the mapping is wrong (4)
        renamed = read.partition(b"\n")[0] != sound[name].partition(b"\n")[0]
        checks = {
            "exit code": code == 7 if stated else code in (0, 2, 5, 7) or (code == 4 and renamed),
            "no traceback": "Traceback" not in said,
            "what was published stands": tree(shop.folder / "data/publish") == shop.published,
            "no litter": list(shop.scratch.iterdir()) == [],
        }
        if code:
            checks["told"] = said.startswith("ingest") and len(said.splitlines()) < 40
            checks["names no customer"] = not [hidden for hidden in CUSTOMERS if hidden in said]
            checks["no ledger"] = not (shop.folder / "data/ingest/ledger.json").exists()
        elif read:
            shop.balanced()
            table, money, column = MONEY[name.removesuffix(".csv")]
            given, oracle = account(shop, table, money), plain(read, column)
            checks[f"account {given}, a plain reading {oracle}"] = given == oracle
        wrong += [f"{what}: {check}" for check, held_ in checks.items() if not held_]
    print(f"exit codes: {dict(codes)}")
    assert not wrong, "\n\n".join([f"{len(wrong)} wrong", *wrong[:12]])
    assert codes[7] >= MUTANTS // PARTS // 3
    assert codes[0] >= MUTANTS // PARTS // 10


def kinds() -> dict[str, list[Path]]:
    """Return the artifacts of a published book by kind."""
    scorer, version = Path("data/promote/scorer"), versions.CURRENT.resolve().relative_to(Path.cwd())
    return {
        "features": [path for path in Path("data/featurise").rglob("*.parquet") if path.is_file()],
        "model": [scorer / "booster.txt", scorer / "encoders.json", Path("data/promote/champion/flat/booster.txt")],
        "calibrator": [scorer / "calibrator.json", Path("data/promote/champion/flat/calibrator.json")],
        "published": list(versions.files_of(version)),
        "cache": sorted(path for path in Path(".dvc/cache/files/md5").glob("??/*") if path.stat().st_size),
        "made": [path for path, _ in held._outputs() if path.stat().st_size],
        "ingested": list(Path("data/ingest/tables").rglob("*.parquet")),
    }


@fault("G1", "G2", "A11")
@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_artifacts(part, book, draw, fork, tmp_path):
    """`verify` ends with 7 and names the file; so does a run, and whatever reads a bundle, before it parses it."""
    forks = fork("score", "explain", "publish")
    held.note()
    noted = NOTE.read_text()
    there = kinds()
    assert min(map(len, there.values())) > 0
    for number in range(MUTANTS // PARTS):
        kind = draw.choice(sorted(there))
        path = draw.choice(there[kind])
        data, before = path.read_bytes(), path.stat()
        how = draw.choice((*BYTES, lines_lost))
        changed = how(draw, data) if data else b"x"
        if changed == data:
            changed = data + b"x"
        path.chmod(0o644)
        path.write_bytes(changed)
        if draw.random() < 0.5:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as if nothing had happened
        what = f"mutant {number}: {how.__name__} of {path}"
        code, said = forks.run("verify", book.folder)
        assert code == 7, f"{what}: {code} {said[-900:]}"
        assert "Traceback" not in said, f"{what}: {said[-900:]}"
        assert str(path) in said, f"{what}: {said[-900:]}"
        if kind in ("features", "cache", "made"):
            NOTE.write_text(noted)  # a stage that began below has dropped it
            assert str(path) in {problem.where for problem in held.altered()}, what
        if kind in ("model", "calibrator") and path.is_relative_to("data/promote/scorer"):
            code, said = forks.run(draw.choice(["score", "explain", "publish"]), book.folder)
            assert code == 7, f"{what}: {code} {said[-900:]}"
            assert "Traceback" not in said, what
            assert str(path) in said, f"{what}: {said[-900:]}"
        path.write_bytes(data)
        path.chmod(before.st_mode)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    code, said = forks.run("verify", book.folder)
    assert code == 0, said
    NOTE.write_text(noted)
    assert held.altered() == []


@fault("G2")
@pytest.mark.parametrize("part", range(2))
def test_mutants_of_a_model_whose_hash_was_stated_anew(part, book, draw, fork, tmp_path):
    """The manifest states what is there: what cannot be a model is still refused, or scores; nothing falls over it.

    Not of the booster's text: one whose hash was stated anew may end the process that reads it, as any forged one may.
    """
    scorer = Path("data/promote/scorer")
    facts = {key: value for key, value in bundle.manifest(scorer).items() if key != "files"}
    sound = bundle.read(scorer)
    forks = fork("score")
    codes: Counter[int] = Counter()
    for number in range(max(4, MUTANTS // 20)):
        name = draw.choice(["encoders.json", "features.json", "calibrator.json", "grades.json"])
        how = draw.choice((*BYTES, lines_lost))
        bundle.write(scorer, {**sound, name: how(draw, sound[name])}, **facts)
        code, said = forks.run("score", book.folder)
        codes[code] += 1
        assert code in (0, 2, 7), f"{number}: {name} {how.__name__}: {code} {said[-1500:]}"
        assert "Traceback" not in said, f"{number}: {name} {how.__name__}: {said[-1500:]}"
    print(f"exit codes: {dict(codes)}")

"""Mutated deliveries and artifacts, drawn from the printed seed: never exit code 1, never a hang, never silently other.

FAULT_MUTANTS says how many of each (default 200; the whole battery is 2,000). They run in this process, so that an
artifact which killed the process that reads it would kill the test.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import shutil
import time
from pathlib import Path

import pytest
from fault_ground import Shop, ended

from features.errors import IntegrityRefused
from pipeline import bundle, score, versions

fault = pytest.mark.fault
MUTANTS = int(os.environ.get("FAULT_MUTANTS", "200"))
PARTS = 4  # so that they share the processes
SLOWEST = 10  # seconds of this process, whatever else the machine does


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


def sums(shop: Shop) -> str:
    """Return the account of all rows and all money."""
    return (shop.folder / "data/ingest/quality.json").read_text()


@fault("A7", "A11")
@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_deliveries(part, shop):
    """Half with a manifest: there 7 always. Without: what a plain reading gives, or a refusal; the totals show it."""
    shop.lines = shop.lines[:60]
    shop.moves()
    shop.accepted()
    accepted = sums(shop)
    sound = {path.name: path.read_bytes() for path in (shop.folder / "data/raw/shop").iterdir()}
    codes: dict[int, int] = {}
    for number in range(MUTANTS // PARTS):
        name = shop.draw.choice(["moves.csv", "moves.csv", "people.csv", "loans.csv", "states.csv"])
        how = shop.draw.choice(BYTES + ROWS)
        shutil.rmtree(shop.folder / "data/raw/shop")
        for each, data in sound.items():
            shop.put(each, data)
        changed = how(shop.draw, sound[name])
        packed = shop.draw.random() < 0.2
        if changed == sound[name]:
            continue
        stated = number % 2 == 0
        final = name
        if packed:
            shop.drop(name)
            final, changed = f"{name}.gz", gzip.compress(changed, mtime=0)
            if shop.draw.random() < 0.5:
                changed = shop.draw.choice(BYTES)(shop.draw, changed)
        shop.put(final, changed)
        if stated:
            original = gzip.compress(sound[name], mtime=0) if packed else sound[name]
            shop.manifest(files={final: {"sha256": hashlib.sha256(original).hexdigest()}})
        shutil.rmtree(shop.folder / "data/ingest", ignore_errors=True)
        before = time.process_time()
        found = shop.ingest()
        what = f"mutant {number}: {how.__name__} of {final}, manifest {stated}: {found.said[-600:]}"
        assert time.process_time() - before < SLOWEST, what
        assert "Traceback" not in found.said, what
        codes[found.code] = codes.get(found.code, 0) + 1
        if stated:
            assert found.code == 7, what
        else:
            assert found.code in (0, 2, 4, 5, 7), what
            if found.code == 0:
                shop.balanced()
                kept_all = sums(shop) == accepted
                assert not kept_all or how in (flipped, spliced, columns_swapped, types_changed, cut, zeroed), what
    print(f"exit codes: {codes}")
    assert codes[7] >= MUTANTS // PARTS // 3


@fault("G2", "G1")
@pytest.mark.parametrize("part", range(PARTS))
def test_mutated_artifacts(part, book, draw, tmp_path):
    """Bundles, published versions, DVC's cache: each change is 7 and names the file, before anything is parsed."""
    from pipeline import held

    scorer = Path("data/promote/scorer")
    version = versions.CURRENT.resolve().relative_to(Path.cwd())
    cache = [path for path in Path(".dvc/cache/files/md5").glob("??/*") if path.stat().st_size]
    bundles = list(versions.files_of(scorer))
    published = list(versions.files_of(version))
    for number in range(MUTANTS // PARTS):
        group = draw.choice([bundles, bundles, published, cache])
        path = draw.choice(group)
        data = path.read_bytes()
        how = draw.choice((*BYTES, lines_lost))
        changed = how(draw, data) if data else b"x"
        if changed == data:
            continue
        path.chmod(0o644)
        path.write_bytes(changed)
        before = time.process_time()
        what = f"mutant {number}: {how.__name__} of {path}"
        if group is cache:
            digest = path.parent.name + path.name.removesuffix(".dir")
            assert held._md5(path) != digest, what
            assert number > 8 or any(problem.where == str(path) for problem in held.faults()[1]), what
        elif group is published:
            assert [problem.where for problem in versions.faults(version)] == [str(path)], what
        else:
            with pytest.raises(IntegrityRefused, match=path.name):
                bundle.read(scorer)
            if number < 6:
                found = ended("score", score.main, tmp_path / "failure.json")
                assert found.code == 7, what + found.said
        assert time.process_time() - before < SLOWEST, what
        path.write_bytes(data)
    assert versions.faults(version) == []
    assert versions.faults(scorer) == []


@fault("G2")
@pytest.mark.parametrize("part", range(2))
def test_mutants_of_a_model_whose_hash_was_stated_anew(part, book, draw):
    """The manifest states what is there: what cannot be a model is still refused, or scores; a child does the parsing."""
    import subprocess
    import sys

    from workspaces import ROOT

    scorer = Path("data/promote/scorer")
    facts = {key: value for key, value in bundle.manifest(scorer).items() if key != "files"}
    sound = bundle.read(scorer)
    codes = {}
    for _ in range(max(4, MUTANTS // 50)):
        name = draw.choice(["encoders.json", "features.json", "calibrator.json", "grades.json"])
        how = draw.choice((*BYTES, lines_lost))
        bundle.write(scorer, {**sound, name: how(draw, sound[name])}, **facts)
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.score"], env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        codes[done.returncode] = codes.get(done.returncode, 0) + 1
        assert done.returncode in (0, 2, 7), f"{name} {how.__name__}: {done.returncode} {done.stderr[-1500:]}"
        assert "Traceback" not in done.stderr
    print(json.dumps(codes))

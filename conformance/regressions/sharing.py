"""Failures shared between machines, through one of Hypothesis's databases: a directory, or Redis.

What is kept there is our own case, as in the store, and not Hypothesis's choices: those mean something else as soon
as a strategy changes, and are thrown away by the first release that cannot reproduce them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hypothesis.database import DirectoryBasedExampleDatabase, ExampleDatabase

from conformance.regressions.entries import Entry
from strategies.codec import CaseFormatError, Spec

FORMAT_VERSION = 1
_REDIS = ("redis", "rediss", "unix")
_KEPT = timedelta(days=30)  # counted from the last run that asked
_CONNECT_SECONDS = 5


class DatabaseError(Exception):
    """A database that cannot be used; the message says why, and what would work."""


class DatabaseWarning(UserWarning):
    """A database that stopped working during a run: what was found is in the store alone."""


class SharedFindings:
    """The failures of one implementation, by the test that found them."""

    def __init__(self, database: ExampleDatabase, impl: str) -> None:
        self._database = database
        self._impl = impl
        self._lost = False

    def specs(self, clause: str, test: str) -> list[Spec]:
        """The cases that broke ``clause`` in function ``test``, wherever they were found, the simplest first."""
        found = []
        try:
            values = sorted(self._database.fetch(self._key(clause, test)), key=lambda value: (len(value), value))
        except Exception as error:
            values = []
            self._give_up(error)
        for value in values:
            try:
                found.append(Entry(json.loads(value), "", ()).spec())
            except (ValueError, CaseFormatError):
                continue  # of another release, whose runs will read it
        return found

    def save(self, clause: str, test: str, case: Mapping[str, Any]) -> None:
        """Shares a failure."""
        self._change(self._database.save, clause, test, case)

    def discard(self, clause: str, test: str, case: Mapping[str, Any]) -> None:
        """Takes one back."""
        self._change(self._database.delete, clause, test, case)

    def _change(self, change: Any, clause: str, test: str, case: Mapping[str, Any]) -> None:
        try:
            change(self._key(clause, test), json.dumps(case, sort_keys=True, separators=(",", ":")).encode())
        except Exception as error:
            self._give_up(error)

    def _key(self, clause: str, test: str) -> bytes:
        return f"lora_compat/{FORMAT_VERSION}/{self._impl}/{clause}/{test}".encode()

    def _give_up(self, error: Exception) -> None:
        # A finding must not be lost for want of a network: the store has it, and the verdict stands.
        if not self._lost:
            warnings.warn(f"--database stopped working: {error}", DatabaseWarning, stacklevel=3)
        self._lost = True


def opened(where: str) -> ExampleDatabase:
    """The database at a directory or a Redis URL.

    Raises:
        DatabaseError: there is none, or it does not answer.
    """
    scheme = urlsplit(where).scheme if "://" in where else ""
    if scheme in _REDIS:
        return _redis(where)
    if scheme:
        raise DatabaseError(f"{scheme}:// is no database: give a directory, or redis://HOST:PORT/NUMBER")
    if Path(where).exists() and not Path(where).is_dir():
        raise DatabaseError(f"{where} is a file: give a directory, which need not exist yet")
    return DirectoryBasedExampleDatabase(where)


def _redis(url: str) -> ExampleDatabase:
    shown = url.replace(f"{urlsplit(url).netloc.rpartition('@')[0]}@", "")  # without a password
    try:
        import redis
        from hypothesis.extra.redis import RedisExampleDatabase
    except ImportError:
        raise DatabaseError(f"{shown} needs a package: uv pip install 'lora-compat[fleet]'") from None
    try:
        client = redis.Redis.from_url(url, socket_connect_timeout=_CONNECT_SECONDS)
        client.ping()
    except (redis.RedisError, ValueError) as error:
        raise DatabaseError(
            f"{shown} does not answer ({error}): start redis-server there, or give a directory"
        ) from None
    return RedisExampleDatabase(client, expire_after=_KEPT, key_prefix=b"")

"""The clauses of one target in a fork of this process: what ends or hangs there is an error of that target alone."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import shutil
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from multiprocessing.connection import Connection
from typing import IO, Any

from conformance.certification.clause_tests import checks_of
from conformance.certification.kept_results import Asked, KeptResults
from conformance.judging.verdicts import ClauseResult
from conformance.search.bodies import Body
from conformance.search.drawing import Source
from conformance.subjects.subject import Subject
from conformance.suite.budget import Budget
from conformance.suite.checking import Checking

MakeRun = Callable[[Budget], Checking]


class Ended(Exception):
    """The process of a target is gone; says how, and where it was."""


class Process:
    """A fork that runs one clause after another of one target; it has whatever this process has imported.

    A case that takes longer than ``seconds`` ends it. Its temporary files are in a folder that goes when it does.
    """

    def __init__(self, make: MakeRun, seconds: float) -> None:
        gc.freeze()  # what was imported: a million objects that every full collection of the fork would walk, and copy
        context = multiprocessing.get_context("fork")
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the last reference
        self._folder = tempfile.TemporaryDirectory(prefix="lora-compat-")
        self._pipe, theirs = context.Pipe()
        given = theirs, self._pipe, make, seconds, self._log, self._folder.name
        self._process: Any = context.Process(target=_work, args=given, daemon=True)
        self._process.start()
        theirs.close()

    def ask(self, asked: Asked) -> ClauseResult:
        """One clause's result.

        Raises:
            Ended: the process died, or was ended.
        """
        try:
            self._pipe.send(asked)
            return ClauseResult.from_dict(self._pipe.recv())
        except (EOFError, OSError):
            self._join()
            raise Ended(self._said()) from None

    def stop(self) -> None:
        """Ends it."""
        self._process.kill()
        self._join()

    def _join(self) -> None:
        self._process.join()
        self._folder.cleanup()

    def _said(self) -> str:
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        where = next((line for line in lines if line.startswith("File ")), "")
        hung = next((line for line in lines if line.startswith("Timeout")), None)
        code = self._process.exitcode
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"{f'a case hung: {hung}' if hung else f'the process {how}'}{f', in {where[:300]}' if where else ''}"


def _work(pipe: Connection, others: Connection, make: MakeRun, seconds: float, log: IO[str], folder: str) -> None:
    others.close()  # or the parent's end would still be open when the parent is gone
    tempfile.tempdir = folder
    faulthandler.disable()  # or enabling it leaves the handlers of libraries that were imported since in place
    faulthandler.enable(log)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends this process
    while True:
        try:
            clause, name, budget = pipe.recv()
        except EOFError:  # the parent is gone, and removes nothing
            shutil.rmtree(folder, ignore_errors=True)
            return
        test = next(one for one in checks_of(clause) if one.body.__name__ == name)
        watch = partial(faulthandler.dump_traceback_later, seconds, exit=True, file=log)
        watch()
        try:
            result = make(budget).check(clause, name, test.strategy, _watched(test.body, watch))
        except Exception as error:  # of what there has to be before a case can run
            result = ClauseResult(clause, errors=[f"{type(error).__name__}: {error}"])
        faulthandler.cancel_dump_traceback_later()
        pipe.send(result.to_dict())


def _watched(body: Body, watch: Callable[[], None]) -> Body:
    """``body``, where every case has a time of its own, and what is drawn after it another."""

    @wraps(body)
    def watched(subject: Subject, case: Any) -> None:
        __tracebackhide__ = True
        watch()
        try:
            body(subject, case)
        finally:
            watch()

    return watched


@dataclass(slots=True)
class Apart:
    """Has the clauses of one target after the other run in a process of that target's; results are ``kept``."""

    seconds: float
    kept: KeptResults | None = None
    _path: str = ""
    _process: Process | None = None

    def run(self, path: str, make: MakeRun, asked: Asked) -> ClauseResult:
        """A clause's result: the one that is kept of an earlier run, or a new one.

        Where the process did not live to give a result the next clause gets another one.
        """
        found = self.kept.find(path, asked) if self.kept else None
        if found is not None:
            return found
        if self._process is None or self._path != path:
            self.stop()
            self._path, self._process = path, Process(make, self.seconds)
        try:
            result = self._process.ask(asked)
        except Ended as error:
            self._process = None
            return ClauseResult(asked[0], errors=[str(error)], target=path)
        if self.kept is not None:
            self.kept.keep(path, asked, result)
        return result

    def stop(self) -> None:
        """Ends the process, if there is one."""
        if self._process is not None:
            self._process.stop()
            self._process = None


@dataclass(frozen=True, slots=True)
class ApartRun:
    """`Checking`, elsewhere."""

    apart: Apart
    path: str
    make: MakeRun
    budget: Budget

    def check(self, clause: str, name: str, source: Source, body: Body) -> ClauseResult:
        """See `Checking.check`."""
        return self.apart.run(self.path, self.make, (clause, name, self.budget))

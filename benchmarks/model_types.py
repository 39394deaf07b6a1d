"""Which model types are built small by transformers and loaded by vLLM: ``python -m benchmarks.model_types [NAME ...]``.

Each type is loaded in a worker process, one after the other; a type that ends the worker or does not return is told
so, and the next one gets a new worker.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import traceback
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import ModelSettings
from conformance.implementations.vllm.models.server import VllmModels
from conformance.subjects.models.configs import small_config
from conformance.subjects.models.making import complete, made
from conformance.subjects.models.types import ModelTarget, NotBuildable, everything, resolve
from strategies.models.configs import ConfigChoices

_FIRST = 180  # seconds for a worker's first type, which imports vLLM
_NEXT = 60


@dataclass(frozen=True, slots=True)
class Row:
    """How far a type came; empty strings are good news."""

    name: str
    model_type: str = ""
    built: str = "not tried"
    loaded: str = "not tried"

    @property
    def works(self) -> bool:
        """Whether vLLM loads it."""
        return self.loaded == ""

    def __str__(self) -> str:
        cells = (self.name, self.model_type, *("yes" if not said else f"no: {said}" for said in (self.built, self.loaded)))
        return f"| {' | '.join(cells)} |"


def attempt(target: ModelTarget, choices: ConfigChoices = ConfigChoices()) -> Row:  # noqa: B008 - frozen
    """Builds a type and loads it, in this process."""
    row = {"name": target.name, "model_type": target.model_type}
    with tempfile.TemporaryDirectory() as folder:
        try:
            content = small_config(target, choices)
            model: Any = made(target, content)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.fill_(0.125)
            model.save_pretrained(folder)
            complete(Path(folder), content)
        except Exception as error:
            return Row(**row, built=_said(error))
        try:
            VllmModels().load(Path(folder), ModelSettings(), RankGroup(0, 1, lambda rank, issued, tensor: [tensor])).serve_adapters()
        except Exception as error:
            return Row(**row, built="", loaded=_said(error))
    return Row(**row, built="", loaded="")


def _said(error: Exception) -> str:
    origin: BaseException = error
    while origin.__cause__ is not None:
        origin = origin.__cause__
    frame = traceback.extract_tb(origin.__traceback__)[-1]
    words = " ".join(f"{type(origin).__name__}: {origin}".split())
    return f"{words[:300]} ({Path(frame.filename).name}:{frame.lineno})".replace("|", "/")


def _work(pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    while (name := pipe.recv()) is not None:
        try:
            row = attempt(resolve(name))
        except NotBuildable as error:
            row = Row(name, built=str(error))
        pipe.send(asdict(row))


class Worker:
    """A process that attempts types, replaced when it is gone."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None

    def attempt(self, name: str) -> Row:
        """One type's row, whatever happens to the process."""
        seconds = _NEXT
        if self._process is None:
            self._pipe, theirs = self._context.Pipe()
            self._process = self._context.Process(target=_work, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
            seconds = _FIRST
        try:
            self._pipe.send(name)
            if self._pipe.poll(seconds):
                return Row(**self._pipe.recv())
            self.stop()
            return Row(name, loaded=f"did not return within {seconds} s")
        except (EOFError, OSError):
            self._process.join()
            said = f"the process ended with {self._process.exitcode}"
            self.stop()
            return Row(name, loaded=said)

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def sweep(names: Iterable[str]) -> Iterator[Row]:
    """The rows of types, as they come."""
    worker = Worker()
    try:
        for name in names:
            yield worker.attempt(name)
    finally:
        worker.stop()


def main(arguments: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="targets; every architecture with LoRA support where none is named")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    options = parser.parse_args(arguments)
    rows = []
    print("| target | model type | transformers builds it | vLLM loads it |\n|---|---|---|---|")
    for row in sweep(options.names or list(everything()[0])):
        rows.append(row)
        print(row, flush=True)
    print(f"\n{sum(row.works for row in rows)} of {len(rows)} load", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

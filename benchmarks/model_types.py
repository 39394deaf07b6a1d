"""Which model types transformers builds small and vLLM loads: ``python -m benchmarks.model_types [NAME ...]``.

Each type is loaded in a worker process, one after the other; a type that ends the worker or does not return is told
so, and the next one gets a new worker.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from hypothesis import Phase, given, settings

from conformance.engines.ranks import RankGroup
from conformance.implementations.models import ModelSettings
from conformance.implementations.vllm.models.server import VllmModels
from conformance.subjects.models.configs import dtypes, small_config
from conformance.subjects.models.making import complete, made
from conformance.subjects.models.traits import TIED, booleans, traits
from conformance.subjects.models.types import ModelTarget, NotBuildable, everything, resolve
from strategies.models.configs import ConfigChoices, config_choices

_FIRST = 600  # seconds for a worker's first type, which imports vLLM
_NEXT = 300


@dataclass(frozen=True, slots=True)
class Row:
    """How far a type came; empty strings are good news."""

    name: str
    model_type: str = ""
    built: str = "not tried"
    loaded: str = "not tried"
    choices: str = ""

    @property
    def works(self) -> bool:
        """Whether vLLM loads it."""
        return self.loaded == ""

    def __str__(self) -> str:
        said = ("yes" if not one else f"no: {one}" for one in (self.built, self.loaded))
        return f"| {' | '.join((self.name, self.model_type, *said, *([self.choices] if self.choices else [])))} |"


def attempt(target: ModelTarget, choices: ConfigChoices = ConfigChoices()) -> Row:  # noqa: B008 - frozen
    """Builds a type and loads it, in this process."""
    row = Row(target.name, target.model_type, choices="" if choices == ConfigChoices() else repr(choices))
    with tempfile.TemporaryDirectory() as folder:
        try:
            checkpoint(target, choices, Path(folder))
        except Exception as error:
            return replace(row, built=_said(error))
        try:
            chosen = ModelSettings(dtype=getattr(torch, dtypes(target)[0]))
            VllmModels().load(Path(folder), chosen, RankGroup(0, 1, _alone)).serve_adapters()
        except Exception as error:
            return replace(row, built="", loaded=_said(error))
    return replace(row, built="", loaded="")


def checkpoint(target: ModelTarget, choices: ConfigChoices, directory: Path) -> None:
    """Makes and saves a model whose weights are all an eighth; raises whatever transformers does."""
    content = small_config(target, choices)
    model: Any = made(target, content)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.125)
    model.save_pretrained(directory)
    complete(directory, content)


def _alone(rank: int, issued: Any, tensor: torch.Tensor) -> list[torch.Tensor]:
    return [tensor]


def _said(error: Exception) -> str:
    origin: BaseException = error
    while origin.__cause__ is not None:
        origin = origin.__cause__
    frame = traceback.extract_tb(origin.__traceback__)[-1]
    words = " ".join(f"{type(origin).__name__}: {origin}".split())
    return f"{words[:300]} ({Path(frame.filename).name}:{frame.lineno})".replace("|", "/")


def _rows(name: str, question: str) -> list[Row]:
    try:
        target = resolve(name)
    except NotBuildable as error:
        return [Row(name, built=str(error))]
    return [attempt(target, choices) for choices in _QUESTIONS[question](target)]


def _switched(target: ModelTarget) -> Iterator[ConfigChoices]:
    """Each boolean turned over, alone, if that makes other parameters."""
    for name, value in booleans(small_config(target, ConfigChoices())).items():
        choices = ConfigChoices(switches=((name, not value),))
        if name == TIED or _parameters(target, choices) != _parameters(target, ConfigChoices()):
            yield choices


def _parameters(target: ModelTarget, choices: ConfigChoices) -> dict[str, torch.Size]:
    """The shapes of a model's parameters; empty where it cannot be built."""
    try:
        with torch.device("meta"):
            return {name: one.shape for name, one in made(target, small_config(target, choices)).named_parameters()}
    except Exception:  # whatever transformers raises
        return {}


def _drawn(target: ModelTarget) -> list[ConfigChoices]:
    """Twenty configurations of those that cases are drawn from, the same ones every time."""
    found: list[ConfigChoices] = []

    @settings(max_examples=20, database=None, derandomize=True, phases=[Phase.generate], deadline=None)
    @given(config_choices(traits(target)))
    def collect(choices: ConfigChoices) -> None:
        found.append(choices)

    collect()
    return found


_QUESTIONS: Mapping[str, Callable[[ModelTarget], Iterable[ConfigChoices]]] = {
    "plain": lambda target: [ConfigChoices()],
    "switches": _switched,
    "draws": _drawn,
}


def _work(pipe: Connection) -> None:
    warnings.simplefilter("ignore")
    os.environ["TQDM_DISABLE"] = "1"
    while (asked := pipe.recv()) is not None:
        pipe.send(_rows(*asked))


class Worker:
    """A process that attempts types, replaced when it is gone."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._process: Any = None

    def ask(self, name: str, question: str) -> list[Row]:
        """One type's rows, whatever happens to the process."""
        seconds = _NEXT
        if self._process is None:
            self._pipe, theirs = self._context.Pipe()
            self._process = self._context.Process(target=_work, args=(theirs,), daemon=True)
            self._process.start()
            theirs.close()
            seconds = _FIRST
        try:
            self._pipe.send((name, question))
            if self._pipe.poll(seconds):
                return self._pipe.recv()  # type: ignore[no-any-return]
            said = f"did not return within {seconds} s"
        except (EOFError, OSError):
            self._process.join()
            said = f"the process ended with {self._process.exitcode}"
        self.stop()
        return [Row(name, loaded=said)]

    def stop(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None


def sweep(names: Iterable[str], question: str = "plain") -> Iterator[Row]:
    """The rows of types, as they come."""
    worker = Worker()
    try:
        for name in names:
            yield from worker.ask(name, question)
    finally:
        worker.stop()


def main(arguments: list[str] | None = None) -> int:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="targets; every architecture with LoRA support where none is named")
    parser.add_argument("--question", choices=tuple(_QUESTIONS), default="plain", help="which configurations")
    parser.add_argument("--json", type=Path, help="also write the rows there")
    options = parser.parse_args(arguments)
    rows = []
    print("| target | model type | transformers builds it | vLLM loads it |\n|---|---|---|---|")
    for row in sweep(options.names or list(everything()[0]), options.question):
        rows.append(row)
        print(row, flush=True)
    print(f"\n{sum(row.works for row in rows)} of {len(rows)} load", flush=True)
    if options.json:
        options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The options of certification, for pytest and for ``lora-compat certify`` alike."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

HANG_SECONDS = 120.0  # a case takes a tenth of one; the first of a class, with its imports, five


@dataclass(frozen=True, slots=True)
class CertifyOptions:
    """What is to be certified, and where the results go."""

    targets: tuple[str, ...]
    models: tuple[str, ...] = ()
    recipe: str | None = None
    certificate: Path | None = None
    report: Path | None = None
    baseline: Path | None = None
    update_baseline: bool = False
    time_limit: float = HANG_SECONDS
    resume: Path | None = None
    as_met: bool = False


def add_certify_options(parser: pytest.Parser) -> None:
    """Declares the options."""
    group = parser.getgroup("certification", "certification of existing classes")
    group.addoption(
        "--certify",
        action="append",
        default=[],
        metavar="TARGET",
        help="certify package.module:MyLinear, or every linear class of a module or package (repeatable)",
    )
    group.addoption(
        "--certify-model",
        action="append",
        default=[],
        metavar="TARGET",
        help="certify a model type, architecture, directory with a config.json, module:Class, or all (repeatable)",
    )
    group.addoption("--recipe", default=None, metavar="MODULE:FUNCTION", help="the function that builds the class")
    group.addoption("--certificate", default=None, metavar="FILE", help="write the certificate, as JSON")
    group.addoption("--report", default=None, metavar="FILE.html", help="write the report, one HTML page")
    group.addoption("--compare", default=None, metavar="FILE", help="--results of an earlier run, for --report")
    group.addoption("--baseline", default=None, metavar="FILE", help="known failures that do not fail the run")
    group.addoption(
        "--time-limit",
        default=str(HANG_SECONDS),
        metavar="SECONDS",
        help="how long one case of a model may take before its process is ended (default: %(default)s)",
    )
    group.addoption(
        "--resume",
        default=None,
        metavar="DIR",
        help="keep there what each clause of a model came to, and do not run again what is there",
    )
    group.addoption("--as-met", action="store_true", help="report failures of models as they were met, not made plain")
    group.addoption("--update-baseline", action="store_true", help="write the failures of this run to --baseline")


def read_certify_options(config: pytest.Config) -> CertifyOptions | None:
    """The options, None where nothing is to be certified.

    Raises:
        pytest.UsageError: options that make no sense together.
    """
    targets = tuple(dict.fromkeys(config.getoption("--certify")))
    models = tuple(dict.fromkeys(config.getoption("--certify-model")))
    others = {name: config.getoption(name) for name in ("--recipe", "--certificate", "--baseline")}
    if targets and models:
        raise pytest.UsageError("--certify and --certify-model are two runs: give one of them")
    if not targets and not models:
        given = [name for name in ("--recipe", "--certificate") if others[name]]
        if given:
            raise pytest.UsageError(f"{given[0]} goes with --certify package.module:MyLinear, or --certify-model")
        return None
    if config.getoption("--compare"):
        raise pytest.UsageError("--compare is about runs on drawn classes: leave it out with --certify")
    if others["--recipe"] and not (len(targets) == 1 and ":" in targets[0]):
        raise pytest.UsageError("--recipe builds one class: give one --certify package.module:MyLinear with it")
    update = config.getoption("--update-baseline")
    if update and not others["--baseline"]:
        raise pytest.UsageError("--update-baseline writes the file that --baseline names; give both")
    return CertifyOptions(
        targets=targets,
        models=models,
        recipe=others["--recipe"],
        certificate=_path(others["--certificate"]),
        report=report_path(config),
        baseline=_path(others["--baseline"]),
        update_baseline=update,
        time_limit=_seconds(config.getoption("--time-limit")),
        resume=_path(config.getoption("--resume")),
        as_met=config.getoption("--as-met"),
    )


def _seconds(given: str) -> float:
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise pytest.UsageError(f"--time-limit {given}: give seconds above 0, for instance 120")
    return seconds


def report_path(config: pytest.Config) -> Path | None:
    """The page to write, of whatever run.

    Raises:
        pytest.UsageError: it cannot be written there.
    """
    return _path(config.getoption("--report"))


def _path(given: str | None) -> Path | None:
    if given is None:
        return None
    path = Path(given)
    if not path.absolute().parent.is_dir():
        raise pytest.UsageError(f"{given}: there is no folder {str(path.parent)!r} to write it to")
    return path

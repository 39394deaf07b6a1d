"""The suite's command-line options, checked before anything runs; bad ones are one line and exit code 4."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from conformance.engines.ranks import Engine
from conformance.engines.threads import ThreadsEngine
from conformance.implementations.discovery import did_you_mean, implementation_named
from conformance.implementations.protocol import Implementation
from conformance.regressions.sharing import DatabaseError, SharedFindings, opened
from conformance.suite.budget import PROFILES
from conformance.suite.certify_options import CertifyOptions, read_certify_options, report_path
from conformance.suite.parts import Part

LAYERS = ("lora_compat", "vllm")
ENGINES = ("threads", "gloo", "nccl", "torchrun")
DEVICES = ("cpu", "cuda")
DEFAULT_REGRESSIONS = Path(".lora_compat/regressions")


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a run."""

    impl: str
    layers: str
    engine: str
    profile: str
    max_examples: int
    shards: int
    seed: int
    device: str
    results: Path | None = None
    report: Path | None = None
    compare: Path | None = None
    regressions: Path = DEFAULT_REGRESSIONS
    prove: bool = True
    baseline: Path | None = None
    update_baseline: bool = False
    certify: CertifyOptions | None = None
    part: Part | None = None
    database: str | None = None


def add_options(parser: pytest.Parser) -> None:
    """Declares the options."""
    group = parser.getgroup("conformance", "LoRA conformance suite")
    group.addoption(
        "--impl",
        default=None,
        help="what is tested: reference, vllm, peft, sglang, an entry point's name, or package.module:attribute",
    )
    group.addoption("--layers", default=None, help="base layers for --impl reference: lora_compat (default) or vllm")
    group.addoption("--engine", default="threads", help="how the ranks of a case run: " + ", ".join(ENGINES))
    group.addoption("--device", default="cpu", help="where the subject's layers live: cpu or cuda")
    group.addoption("--profile", default="default", help="cases per clause: quick 20, default 250, thorough 1000")
    group.addoption("--max-examples", default=None, help="cases per clause, whatever the profile says")
    group.addoption("--shards", default=None, help="into how many tests each clause is split (default: the workers)")
    group.addoption("--shard", default=None, metavar="I/N", help="run the I-th of N parts; see lora-compat merge")
    group.addoption("--results", default=None, metavar="FILE", help="write every clause's result, as JSON")
    group.addoption(
        "--write-regressions",
        default=DEFAULT_REGRESSIONS,
        type=Path,
        metavar="DIR",
        help="where failures are stored, replayed from, and written as test files (default: %(default)s)",
    )
    group.addoption(
        "--database",
        default=None,
        metavar="WHERE",
        help="share failures between machines: a directory, or redis://HOST:PORT/NUMBER",
    )
    group.addoption("--no-proof", action="store_true", help="write regression tests without running them")
    group.addoption("--conformance-seed", default="0", help="the integer all draws of the run come from")


def read_options(config: pytest.Config) -> Options:
    """The checked options.

    Raises:
        pytest.UsageError: one of them is not acceptable; the message says what is.
    """
    device = _device(config.getoption("--device"), config.getoption("--engine"))
    profile = one_of("--profile", config.getoption("--profile"), tuple(PROFILES))
    workers = getattr(config, "workerinput", {}).get("workercount") or _workers(config)
    given = config.getoption("--max-examples")
    layers = config.getoption("--layers")
    part = _part(config)
    certify = read_certify_options(config)
    impl = config.getoption("--impl") or ("reference" if certify is None else "")
    if certify is not None and config.getoption("--database"):
        raise pytest.UsageError("--database shares failures of drawn classes: leave it out with --certify")
    if layers is not None:
        one_of("--layers", layers, LAYERS)
        if impl != "reference":
            raise pytest.UsageError(f"--layers={layers} goes with --impl reference, not with --impl {impl}")
    return Options(
        impl=impl,
        layers=layers or (impl if impl in ("vllm", "sglang") else "lora_compat"),
        engine=_engine(config),
        profile=profile,
        max_examples=PROFILES[profile] if given is None else _positive("--max-examples", given),
        shards=_positive("--shards", config.getoption("--shards") or str(part.count if part else workers)),
        seed=_integer("--conformance-seed", config.getoption("--conformance-seed")),
        device=device,
        results=Path(config.getoption("--results")) if config.getoption("--results") else None,
        report=report_path(config),
        compare=_compare(config),
        prove=not config.getoption("--no-proof"),
        baseline=Path(config.getoption("--baseline")) if config.getoption("--baseline") else None,
        update_baseline=config.getoption("--update-baseline"),
        regressions=_directory("--write-regressions", config.getoption("--write-regressions")),
        certify=certify,
        part=part,
        database=config.getoption("--database"),
    )


def shared_of(options: Options) -> SharedFindings | None:
    """The failures that the run shares with others.

    Raises:
        pytest.UsageError: the database cannot be used.
    """
    if options.database is None:
        return None
    try:
        return SharedFindings(opened(options.database), options.impl)
    except DatabaseError as error:
        raise pytest.UsageError(f"--database {error}") from None


def engine_of(options: Options) -> Engine:
    """The engine of the run."""
    if options.engine == "threads":
        return ThreadsEngine()
    if options.engine == "torchrun":
        return _of_torchrun(options.device)
    from conformance.engines.distributed import DistributedEngine

    gpus = torch.cuda.device_count()
    return DistributedEngine(options.engine, max_size=gpus if options.engine == "nccl" else 8)


def _of_torchrun(device: str) -> Engine:
    from conformance.engines.torchrun import NoJob, join

    try:
        engine = join(device)
    except NoJob as error:
        raise pytest.UsageError(str(error)) from None
    if engine is None:
        os._exit(0)  # this rank has served, and has nothing to report
    return engine


def implementation_of(options: Options, *, prepare: bool = True) -> Implementation:
    """The implementation of the run; see `implementation_named`."""
    return implementation_named(options.impl, options.layers, options.device, prepare=prepare)


def _workers(config: pytest.Config) -> int:
    """The number of xdist workers as the controller knows it; 1 without xdist."""
    specs = config.getoption("tx", None) or []
    return max(1, len(specs) or int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def _engine(config: pytest.Config) -> str:
    engine = one_of("--engine", config.getoption("--engine"), ENGINES)
    if engine == "torchrun" and (config.getoption("tx", None) or hasattr(config, "workerinput")):
        raise pytest.UsageError("--engine torchrun is one run on the ranks of one job: leave -n out")
    return engine


def _part(config: pytest.Config) -> Part | None:
    """Machines with other numbers of workers must agree on what the run is, so they are not asked."""
    given = config.getoption("--shard")
    if given is None:
        return None
    if config.getoption("--baseline"):
        raise pytest.UsageError("--baseline judges whole runs: give it to lora-compat merge, and leave it out here")
    try:
        return Part.parse(given)
    except ValueError as error:
        raise pytest.UsageError(f"--shard {error}") from None


def _compare(config: pytest.Config) -> Path | None:
    given = config.getoption("--compare")
    if given and not config.getoption("--report"):
        raise pytest.UsageError(f"--compare {given} is shown in a report: add --report FILE.html")
    return Path(given) if given else None


def _device(given: str, engine: str) -> str:
    device = one_of("--device", given, DEVICES)
    if engine == "nccl" and device != "cuda":
        raise pytest.UsageError("--engine nccl runs on GPUs only: add --device cuda, or use --engine gloo")
    if engine == "gloo" and device == "cuda":
        raise pytest.UsageError(
            "--engine gloo forks its ranks, which CUDA does not survive, so it takes no --device cuda: "
            "use --engine nccl (a GPU for each rank) or --engine threads (all ranks on one GPU)"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise pytest.UsageError(
            "--device cuda: torch sees no GPU here (torch.cuda.is_available() is False); "
            "run on a machine with one and a CUDA build of torch, or use --device cpu"
        )
    return device


def one_of(option: str, given: str, accepted: tuple[str, ...]) -> str:
    """What is ``given`` for ``option``.

    Raises:
        pytest.UsageError: it is none of those that are accepted; the message has them, and the nearest one.
    """
    if given not in accepted:
        raise pytest.UsageError(
            f"{option} {given!r} is unknown: give one of {', '.join(accepted)}" + did_you_mean(given, accepted)
        )
    return given


def _integer(option: str, given: str) -> int:
    try:
        return int(given)
    except ValueError:
        raise pytest.UsageError(f"{option} {given!r} is not an integer: give one, for instance {option} 7") from None


def _directory(option: str, given: Path) -> Path:
    if given.exists() and not given.is_dir():
        raise pytest.UsageError(f"{option} {given} is a file: give a directory, which need not exist yet")
    return given


def _positive(option: str, given: str) -> int:
    number = _integer(option, given)
    if number < 1:
        raise pytest.UsageError(f"{option} {given} is too small: give an integer of at least 1")
    return number

"""Wires the suite into pytest: options, shards, the subject, and the report."""

from __future__ import annotations

import gc
import importlib
import os
from pathlib import Path

import pytest
import torch

from conformance.certification.candidates import Certification, Certifying
from conformance.certification.clause_tests import clause_of
from conformance.certification.known_failures import KnownFailures
from conformance.certification.plugin import FIT, CertificationReport, deselect_others
from conformance.certification.run_report import RunReport
from conformance.contract import CONTRACT
from conformance.regressions.recorder import Recorder
from conformance.regressions.store import Store
from conformance.subjects.subject import Subject
from conformance.suite.budget import Budget
from conformance.suite.certify_options import CertifyOptions, add_certify_options
from conformance.suite.checking import Checking, ClauseRun
from conformance.suite.devices import device_lost
from conformance.suite.options import Options, add_options, engine_of, implementation_of, read_options, shared_of
from conformance.suite.parts import Part, keep
from conformance.suite.progress import Progress
from conformance.suite.quiet import Quiet, quieten, wants_detail
from conformance.suite.regression_files import RegressionWriter
from conformance.suite.reporting import ConformanceReport
from conformance.suite.warming import warm_up

OPTIONS = pytest.StashKey[Options]()
SUBJECT = pytest.StashKey[Subject]()
RECORDER = pytest.StashKey[Recorder]()
CERTIFICATION = pytest.StashKey[Certifying]()


def pytest_addoption(parser: pytest.Parser) -> None:
    add_options(parser)
    add_certify_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "clause(id): the contract's clause that the test checks")
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    options = read_options(config)
    config.stash[OPTIONS] = options
    if options.certify is not None:
        _certify(config, options, options.certify)
        _freeze()
        return
    is_worker = hasattr(config, "workerinput")
    runs_cases = is_worker or config.getoption("dist", "no") == "no"  # xdist's controller leaves them to the workers
    implementation = implementation_of(options, prepare=runs_cases)
    subject = config.stash[SUBJECT] = Subject(implementation, engine_of(options), options.device)
    config.stash[RECORDER] = Recorder(Store(options.regressions), options.impl, subject.identity(), shared_of(options))
    _freeze()
    if not is_worker:
        report = ConformanceReport(options, subject.identity(), clause_of)
        _report(config, report)
        config.pluginmanager.register(KnownFailures(report, options), "known-failures")
        writer = RegressionWriter(report, Store(options.regressions), options.impl, prove=options.prove)
        config.pluginmanager.register(writer, "regression-writer")
        if options.report is not None:
            page = RunReport(report, subject, options.report, options.compare)
            config.pluginmanager.register(page, "run-report")


def pytest_unconfigure(config: pytest.Config) -> None:
    if SUBJECT in config.stash:
        config.stash[SUBJECT].engine.close()
    if CERTIFICATION in config.stash:
        config.stash[CERTIFICATION].close()


def _freeze() -> None:
    """Imported modules are a million objects that every full collection would walk: a quarter of a case's time."""
    gc.collect()
    gc.freeze()


def _certify(config: pytest.Config, options: Options, asked: CertifyOptions) -> None:
    """Runs the clauses on existing classes, or models, instead of drawn ones."""
    certification: Certifying = Certification(options, asked)
    if asked.models:  # which takes transformers and PEFT, ten seconds that nobody else waits for
        certification = importlib.import_module("conformance.certification.models").ModelCertification(options, asked)
    config.stash[CERTIFICATION] = certification
    certification.read_baseline()
    certification.prepare(getattr(config, "workerinput", {}).get(FIT))
    if not hasattr(config, "workerinput"):
        _report(config, CertificationReport(certification))


def _report(config: pytest.Config, report: ConformanceReport) -> None:
    config.pluginmanager.register(report, "conformance-report")
    if not wants_detail(config):
        quieten(config)
        config.pluginmanager.register(Quiet(report), "conformance-quiet")
        config.pluginmanager.register(Progress(config, report.options, clause_of), "conformance-progress")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Chapter MODEL is about models that somebody names; its tests take libraries that the others do without."""
    asked = config.stash[OPTIONS].certify
    return True if collection_path.name == "test_models.py" and not (asked and asked.models) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """After -k and -m, so that the parts of a run are of the tests that are left."""
    if CERTIFICATION in config.stash:
        deselect_others(config, items, models=bool(config.stash[CERTIFICATION].certify.models))
    keep(config.stash[OPTIONS].part or Part(), config, items)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" in metafunc.fixturenames and CERTIFICATION in metafunc.config.stash:
        metafunc.parametrize("target", list(metafunc.config.stash[CERTIFICATION].targets))
    if "shard" in metafunc.fixturenames:
        metafunc.parametrize("shard", range(metafunc.config.stash[OPTIONS].shards))


def pytest_itemcollected(item: pytest.Item) -> None:
    marker = item.get_closest_marker("clause")
    if marker is not None:
        assert marker.args[0] in CONTRACT
        item.extra_keyword_matches.add(marker.args[0])


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish(nodeid: str, location: object) -> None:
    """Ends a worker whose GPU is lost, after its report is out: another one takes over the rest."""
    if "PYTEST_XDIST_WORKER" in os.environ and torch.cuda.is_initialized() and device_lost("cuda"):
        os._exit(1)


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Ends the run where a rank is lost that cannot be replaced."""
    lost = getattr(item.config.stash[SUBJECT].engine, "lost", None) if SUBJECT in item.config.stash else None
    if lost is not None:
        item.session.shouldstop = str(lost)


@pytest.fixture(scope="session", autouse=True)
def warmed(request: pytest.FixtureRequest) -> None:
    """On a GPU the kernels are compiled before the first clause."""
    if SUBJECT in request.config.stash and request.config.stash[OPTIONS].device == "cuda":
        warm_up(request.config.stash[SUBJECT])


@pytest.fixture
def target() -> str | None:
    """The path of the class being certified; None where classes are drawn."""
    return None


@pytest.fixture
def clause_run(request: pytest.FixtureRequest, shard: int, target: str | None) -> Checking:
    options = request.config.stash[OPTIONS]
    budget = Budget(options.max_examples, options.seed, shard, options.shards)
    if target is not None:
        return request.config.stash[CERTIFICATION].clause_run(target, budget)
    return ClauseRun(request.config.stash[SUBJECT], budget, recorder=request.config.stash[RECORDER])

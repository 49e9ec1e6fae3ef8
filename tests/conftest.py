"""What all tests have in common."""

from __future__ import annotations

import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The same examples each time, and as long as a busy machine takes.
settings.register_profile("steady", deadline=None, derandomize=True, database=None)
settings.load_profile("steady")

# A shell ignores Ctrl-C for what it runs in the background, and so would the programs that the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


# --strict-skips: a test that is skipped for a reason that nobody wrote down fails the run.


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--strict-skips", metavar="FILE", help="fail on a skip that this file, skips.toml, does not allow")


def pytest_configure(config: pytest.Config) -> None:
    path = config.getoption("--strict-skips")
    if path and not hasattr(config, "workerinput"):  # xdist's workers report to the process that has none
        config.pluginmanager.register(StrictSkips(Path(path)))


@dataclass
class AllowedSkip:
    tests: str  # the beginning of their ids
    reason: str  # what pytest is told, a regular expression
    why: str
    seen: int = 0

    def allows(self, test: str, reason: str) -> bool:
        return test.startswith(self.tests) and re.search(self.reason, reason) is not None


class StrictSkips:
    def __init__(self, path: Path) -> None:
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        self.rows = [AllowedSkip(**row) for row in tomllib.loads(path.read_text())["skip"]]
        self.refused: list[str] = []

    def see(self, report: Any) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        rows = [row for row in self.rows if row.allows(report.nodeid, reason)]
        for row in rows:
            row.seen += 1
        if not rows:
            self.refused.append(f"{report.nodeid}: {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.see(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.see(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.refused and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        if self.refused:
            terminalreporter.section("skips that no row of skips.toml allows", red=True)
        for line in self.refused:
            terminalreporter.line(line)
        for row in self.rows:
            if not row.seen:
                terminalreporter.line(f"no skip here matched the row of {row.tests} ({row.reason})")

"""The pytest plugin: a test for each case of a kernel, and one for what is judged over all of them::

    @pytest.mark.refloss("arcface", margin=0.3, dtype=["float32", "bfloat16"], framework="torch")
    def test_my_kernel():
        return my_kernel

pytest imports this module on every start: whatever is heavier than `refloss` itself is imported where a test has the
marker.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import pickle
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import refloss

if TYPE_CHECKING:
    from refloss.testing.check import Asked, Checker
    from refloss.testing.report import Report

MARKER = (
    "refloss(loss, *, dtype='float32', **options): the function returns a kernel, which is checked against this loss "
    "(a name, then with its parameters, or an object) on every case; options are those of refloss.testing.check"
)
PARAMETER = "_refloss"  # of a test's callspec: which part of the check it is
ORACLE = "oracle"  # the part that is judged over all cases
ASKED = ("dtype", "cases", "require", "compute", "slack", "seed", "soft_targets", "without")  # needs no kernel
KINDS = (".json", ".html")  # of report files


# -- options ---------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """--refloss-report, --refloss-xfails, and what the marker takes by default."""
    group = parser.getgroup("refloss", "kernels checked by refloss")
    group.addoption("--refloss-report", metavar="FILE", help="write the reports of all kernels: FILE.json or FILE.html")
    group.addoption("--refloss-xfails", metavar="FILE", help="ids that are known to fail, one a line, # for comments")
    parser.addini(
        "refloss_cases", "cases of every refloss marker that names none: all (default) or quick", default="all"
    )
    parser.addini("refloss_require", "the worst grade that passes where the marker names none", default="")
    parser.addini("refloss_xfails", "file of ids that are known to fail, relative to the root", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Refuses what cannot be, before anything runs."""
    config.addinivalue_line("markers", MARKER)
    for name, known in (("refloss_cases", ("all", "quick")), ("refloss_require", ("", *"ABCDE"))):
        if config.getini(name) not in known:
            raise pytest.UsageError(
                f"{name} must be one of {', '.join(filter(None, known))}, got {config.getini(name)!r}"
            )
    path = config.getoption("--refloss-report")
    if path and (Path(path).suffix not in KINDS or not Path(path).absolute().parent.is_dir()):
        raise pytest.UsageError(
            f"--refloss-report must be FILE.json or FILE.html in a folder that exists, got {path!r}"
        )
    config.pluginmanager.register(Session(config), "refloss-session")


def pytest_report_header(config: pytest.Config) -> str:
    """What judges, and what is asked of kernels."""
    import numpy

    asked = config.getini("refloss_require") or "C, in 16 bits D"
    xfails = config.getoption("--refloss-xfails") or config.getini("refloss_xfails")
    words = f"refloss {refloss.__version__}: float64 reference on NumPy {numpy.__version__}"
    words += f"; {config.getini('refloss_cases')} cases, grade {asked} required"
    return words + (f"; known to fail: {xfails}" if xfails else "")


# -- collection ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Marked:
    """What a marker asks for. asked: dtype → its cases; options: of the check, but for dtype."""

    loss: Any
    options: Mapping[str, Any]
    asked: Mapping[str, Asked]


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """What one test is about: a case's place among the cases of this dtype, or None for all together."""

    marked: Marked
    dtype: str
    at: int | None

    @property
    def name(self) -> str:
        """As the id has it."""
        return ORACLE if self.at is None else self.marked.asked[self.dtype].cases[self.at].name


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parts of the check as parameters, after those of the test's own. The kernel's function is not called."""
    marker = metafunc.definition.get_closest_marker("refloss")
    if marker is None:
        return
    if sum(own.name == "refloss" for own in metafunc.definition.own_markers) > 1:
        pytest.fail(f"{metafunc.function.__name__}: one refloss marker a function", pytrace=False)
    try:
        marked = read(marker, metafunc.config)
    except (ValueError, TypeError) as error:
        words = " ".join(str(error).split())
        pytest.fail(f"refloss marker of {metafunc.function.__name__}: {words}", pytrace=False)
    parts = [
        Part(marked, dtype, at) for dtype, asked in marked.asked.items() for at in (*range(len(asked.cases)), None)
    ]
    metafunc.fixturenames.append(PARAMETER)
    metafunc.parametrize(PARAMETER, parts, indirect=True, ids=[f"{part.dtype}-{part.name}" for part in parts])


def read(marker: pytest.Mark, config: pytest.Config) -> Marked:
    """What it asks for; ValueError and TypeError in words."""
    from refloss.testing.check import Asked, check

    if len(marker.args) != 1:
        raise TypeError(f"takes the loss and keywords, got {len(marker.args)} arguments by position")
    known = {p.name for p in inspect.signature(check).parameters.values() if p.kind is p.KEYWORD_ONLY}
    options = {name: value for name, value in marker.kwargs.items() if name in known}
    loss = loss_of(marker.args[0], {name: value for name, value in marker.kwargs.items() if name not in known})
    options.setdefault("cases", config.getini("refloss_cases"))
    if grade := config.getini("refloss_require"):
        options.setdefault("require", grade)
    dtypes = options.pop("dtype", "float32")
    dtypes = [dtypes] if isinstance(dtypes, str) else list(dtypes)
    if not dtypes or len(set(map(str, dtypes))) < len(dtypes):
        raise ValueError(f"dtype must be a name or a list of different names, got {dtypes}")
    given = {name: options[name] for name in ASKED if name in options}
    return Marked(loss, options, {dtype: Asked(loss, dtype, **given) for dtype in dtypes})


def loss_of(given: Any, parameters: dict[str, Any]) -> Any:
    """The loss that a marker names, or has."""
    if not isinstance(given, str):
        if parameters:
            raise TypeError(f"no option {', '.join(parameters)}: of refloss.testing.check, or of a loss given by name")
        return given
    if given == "cross_entropy":
        return refloss.CrossEntropy(**parameters)
    return refloss.get(given, **parameters)


# -- running ---------------------------------------------------------------------------------------


class Group:
    """A kernel in one dtype: what its tests share in this process."""

    def __init__(self, part: Part, label: str) -> None:
        self.part, self.label = part, label
        self.cases = part.marked.asked[part.dtype].cases
        self.checker: Checker | None = None
        self.raised: BaseException | None = None
        self.told = 0  # failing tests so far
        self.whole: Report | None = None  # once the oracle's own test has run

    def start(self, item: pytest.Function) -> Checker:
        """The checker; calls the test's function the first time, and what that raised is raised again every time."""
        from refloss.testing.check import Checker

        if self.raised is not None:
            raise self.raised.with_traceback(None)
        if self.checker is None:
            try:
                kernel = item.obj(**{name: item.funcargs[name] for name in inspect.signature(item.obj).parameters
                                     if name in item.funcargs})  # fmt: skip
                if not callable(kernel):
                    words = f"{item.originalname} must return the kernel, a callable, got {kernel!r}"
                    pytest.fail(words, pytrace=False)
                usual = {name: p.default for name, p in inspect.signature(refloss.testing.check).parameters.items()
                         if p.kind is p.KEYWORD_ONLY}  # fmt: skip
                options = usual | dict(self.part.marked.options) | {"dtype": self.part.dtype}
                try:
                    self.checker = Checker(kernel, self.part.marked.loss, **options)
                except (ValueError, TypeError) as error:
                    pytest.fail(f"{item.originalname}: {' '.join(str(error).split())}", pytrace=False)
            except (Exception, pytest.fail.Exception, pytest.skip.Exception) as error:
                self.raised = error
                raise
        return self.checker

    def judge(self, item: pytest.Function, part: Part) -> None:
        """One part; fails with a report in words."""
        checker = self.start(item)
        if part.at is None:
            self._oracle(checker)
            return
        result = self._result(checker, part.at)
        if result.failures:
            self.told += 1
            report = checker.of_one(result, closely=self.told == 1)
            # the first says all; the others are short, as the report of all cases stands at the end
            words = report if self.told == 1 else "\n".join(failure.message for failure in result.failures)
            pytest.fail(f"{report._headline}\n\n{words}", pytrace=False)

    def _result(self, checker: Checker, at: int) -> Any:
        name = checker.cases[at].name
        found = next((result for result in checker.found.results if result.name == name), None)
        return checker.on(checker.cases[at]) if found is None else found

    def _oracle(self, checker: Checker) -> None:
        """What no case can say alone; cases that ran in another process, or were not chosen, run here as well."""
        for at in range(len(checker.cases)):
            self._result(checker, at)
        late = checker.finish()
        report = self.whole = checker.report()
        graded = any(result.grades for result in report.results)
        if late:
            pytest.fail(f"{report.loss} {report.dtype}: {late[0].message}", pytrace=False)
        if report.oracle_faults or report.not_checked or not graded:
            missed = [f"{stage} is not checked: no case would have caught {', '.join(copies)}"
                      for stage, copies in report.not_checked.items()]  # fmt: skip
            why = [*report.oracle_faults, *missed, "no case could be graded"][0]
            pytest.fail(f"{report.loss.removeprefix('refloss.')} {report.dtype}: {why}\n\n{report}", pytrace=False)

    def told_of(self, form: str) -> dict[str, Any] | None:
        """For the end of the run, in values that processes exchange: what ran, and the report where it is asked for."""
        if self.checker is None or not self.checker.found.results:
            return None
        ran = [result.name for result in self.checker.found.results]
        failed = sum(bool(result.failures) for result in self.checker.found.results)
        report = self.whole
        if report is None and (failed or form):
            report = self.checker.report()
        return {
            "label": self.label, "ran": ran, "of": len(self.cases), "whole": self.whole is not None,
            "text": str(report) if failed > 1 else "", "report": pickle.dumps(report) if form else b"",
        }  # fmt: skip


def part_of(item: pytest.Item) -> Part | None:
    """That of a test which has the marker."""
    return item.callspec.params.get(PARAMETER) if hasattr(item, "callspec") else None


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """In place of the call: the kernel on one case."""
    part = part_of(pyfuncitem)
    if part is None:
        return None
    session: Any = pyfuncitem.config.pluginmanager.get_plugin("refloss-session")
    session.group(pyfuncitem, part).judge(pyfuncitem, part)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    """Of a failure of refloss the summary at the end has one line, also on CI, where pytest does not shorten it."""
    report = yield
    crash = getattr(report.longrepr, "reprcrash", None)
    if call.excinfo is not None and crash is not None:
        from refloss.report import MismatchError

        error = call.excinfo.value
        if isinstance(error, MismatchError) or (isinstance(error, pytest.fail.Exception) and part_of(item)):
            crash.message = crash.message.partition("\n")[0]
    return report


# -- known failures --------------------------------------------------------------------------------


class KnownFailures(pytest.File):
    """The file of ids that are known to fail."""

    def collect(self) -> Iterator[pytest.Item]:
        """Nothing of itself."""
        return iter(())


class NoSuchTest(pytest.Item):
    """An id that no test has."""

    def runtest(self) -> None:
        """Fails."""
        pytest.fail(f"no test has the id {self.name}, which {self.path.name} says is known to fail", pytrace=False)

    def reportinfo(self) -> tuple[Path, None, str]:
        """Where, for the list of failures."""
        return self.path, None, self.name


class Session:
    """What lasts for the whole run, in this process and from those of pytest-xdist."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.form = Path(config.getoption("--refloss-report") or "").suffix
        self.groups: dict[Any, Group] = {}
        self.told: list[dict[str, Any]] = []
        given, ini = config.getoption("--refloss-xfails"), config.getini("refloss_xfails")
        self.xfails = Path(given).absolute() if given else config.rootpath / ini if ini else None
        self.known: list[str] = []
        if self.xfails is not None:
            try:
                lines = self.xfails.read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise pytest.UsageError(f"--refloss-xfails {self.xfails}: {error}") from None
            self.known = [name for line in lines if (name := line.partition("#")[0].strip())]

    def group(self, item: pytest.Function, part: Part) -> Group:
        """That of a test: of its marker, dtype and other parameters."""
        others = tuple(sorted((k, v) for k, v in item.callspec.indices.items() if k != PARAMETER))
        key = (part.marked, part.dtype, others)
        if key not in self.groups:
            label = item.nodeid.rpartition("@")[0] if self._grouped(item) else item.nodeid
            self.groups[key] = Group(part, label.removesuffix(f"-{part.name}]") + "]")
        return self.groups[key]

    def _grouped(self, item: pytest.Item) -> bool:
        """Whether pytest-xdist has put a group's name behind the id."""
        return "@" in item.nodeid.rpartition("]")[2]

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, session: pytest.Session, config: pytest.Config, items: list) -> None:
        """Marks what is known to fail; an id that no test has becomes a test that fails."""
        ids = {item.nodeid: item for item in items}
        for name in ids.keys() & self.known:
            ids[name].add_marker(pytest.mark.xfail(strict=True, reason=f"in {self.xfails}"))
        if config.pluginmanager.hasplugin("xdist"):  # of use with --dist loadgroup
            for item in items:
                if part := part_of(item):
                    label = item.nodeid.removesuffix(f"-{part.name}]")
                    item.add_marker(pytest.mark.xdist_group(label))
        files = {name.partition("::")[0] for name in ids}
        in_part = {str(arg).partition("::")[0] for arg in config.args if "::" in str(arg)}
        missing = []
        for name in self.known:
            file = name.partition("::")[0]
            collected = file in files and not any(Path(part).name == Path(file).name for part in in_part)
            if name not in ids and (collected or not (config.rootpath / file).is_file()):
                missing.append(name)
        if missing:
            parent = KnownFailures.from_parent(session, path=self.xfails)
            items += [NoSuchTest.from_parent(parent, name=name) for name in missing]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """What a process of pytest-xdist has to tell."""
        self.told += getattr(node, "workeroutput", {}).get("refloss", [])

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Tells the main process, or writes the file."""
        self.told += filter(None, (group.told_of(self.form) for group in self.groups.values()))
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["refloss"] = self.told
            return
        best: dict[str, dict[str, Any]] = {}
        for told in sorted(self.told, key=lambda t: (t["whole"], bool(t["text"]), len(t["ran"]))):
            ran = [*best.get(told["label"], {}).get("ran", ()), *told["ran"]]
            best[told["label"]] = told | {"ran": list(dict.fromkeys(ran))}
        self.told = sorted(best.values(), key=lambda told: told["label"])
        if self.form:
            from refloss.writing import write_whole

            path = self.config.getoption("--refloss-report")
            try:
                write_whole(path, (as_json if self.form == ".json" else as_html)(self.told))
            except OSError as error:
                session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
                print(f"\nERROR: --refloss-report {path}: {error.strerror}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """The whole report of a kernel that failed; what was not judged because only some tests ran."""
        for told in self.told:
            part = not told["whole"]
            if told["text"] or part:
                terminalreporter.section(f"refloss: {told['label']}")
            if told["text"]:
                terminalreporter.write_line(told["text"])
            if part:
                name = told["label"].removesuffix("]") + f"-{ORACLE}]"
                terminalreporter.write_line(
                    f"{len(told['ran'])} of {told['of']} cases ran. Not judged, since {name} did not run: whether "
                    "every wrong gradient would have been seen."
                )


# -- files -----------------------------------------------------------------------------------------


def as_json(told: list[dict[str, Any]]) -> str:
    """Every kernel's report in one object."""
    kernels = [{"test": t["label"], "ran": len(t["ran"]), "of": t["of"],
                **json.loads(pickle.loads(t["report"]).to_json())} for t in told]  # fmt: skip
    return json.dumps({"refloss": refloss.__version__, "kernels": kernels}, indent=1, ensure_ascii=False) + "\n"


def as_html(told: list[dict[str, Any]]) -> str:
    """The page of all kernels."""
    from refloss.testing.page import page

    if not told:
        return "<!doctype html>\n<html lang=en><title>refloss</title>No kernel was checked.</html>\n"
    return page([(t["label"], pickle.loads(t["report"])) for t in told]) + "\n"

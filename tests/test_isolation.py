"""Kernels that misbehave: in a process of their own none passes, none hangs, and each is told for what it does."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

import refloss
from refloss.cli.main import main
from refloss.testing import check
from refloss.testing.isolation.wire import BadMessage, receive, send

KERNELS = '''
import ctypes, gc, os, signal, subprocess, sys, threading, time
import numpy as np
import refloss

LOSS = refloss.CrossEntropy()
last = {}

def right(logits, targets, upstream=1.0):
    out = LOSS.forward(logits, targets)
    made = {"loss": out.loss, "grad_logits": LOSS.backward(out, upstream).logits}
    return {name: np.asarray(value).astype(logits.dtype) for name, value in made.items()}

def after(change):
    """Right, but for what it does besides."""
    def kernel(logits, targets, upstream=1.0):
        made = right(logits, targets, upstream)
        change(made)
        return made
    return kernel

def only(change):
    return lambda logits, targets: change()

def overwrite(made):
    for array in last.values():
        array[...] = 0
    last.clear()
    last.update(made)

def later(made):
    def write():
        time.sleep(0.02)
        made["grad_logits"][...] = 0
    threading.Thread(target=write, daemon=True).start()
    time.sleep(0)

def fill():
    kept = []
    while True:
        kept.append(np.ones(10**7))

def recurse():
    return recurse()

class Lying:
    dtype = np.dtype("float32")

    @property
    def shape(self):
        raise RuntimeError("no shape")

class Own(np.ndarray):
    def __array_ufunc__(self, *a, **k):
        time.sleep(600)

def lazy(logits, targets, upstream=1.0):
    import torch
    return right(logits, targets, upstream)

exits = only(lambda: sys.exit(0))
ends = only(lambda: os._exit(0))
crashes = only(lambda: ctypes.string_at(0))
hangs = only(lambda: time.sleep(600))
fills = only(fill)
recurses = only(recurse)
interrupts = only(lambda: (_ for _ in ()).throw(KeyboardInterrupt))
lies = only(Lying)
owns = only(lambda: np.zeros((), np.float32).view(Own))
ends_parent = after(lambda made: os.kill(os.getppid(), signal.SIGTERM) or time.sleep(0.5))
starts = after(lambda made: subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"],
                                             start_new_session=True))
closes = after(lambda made: os.closerange(0, 100))
forges = after(lambda made: [os.write(fd, b"x" * 64) for fd in range(3, 12) if os.path.exists(f"/proc/self/fd/{fd}")
                             and not os.path.isdir(f"/proc/self/fd/{fd}") and writable(fd)])
prints = after(lambda made: sys.stdout.write("x" * 2**20))
patches = after(lambda made: setattr(np, "allclose", lambda *a, **k: True))
reseeds = after(lambda made: np.random.seed(0))
draws = after(lambda made: np.random.rand())
strict = after(lambda made: np.seterr(all="raise"))
deepens = after(lambda made: sys.setrecursionlimit(5000))
flattens = after(lambda made: sys.setrecursionlimit(500))
keeps = after(lambda made: gc.disable())
traces = after(lambda made: sys.settrace(lambda *a: None))
moves = after(lambda made: os.chdir("/"))
unsets = after(lambda made: os.environ.pop("PATH", None))
overwrites = after(overwrite)
writes_later = after(later)
forks = after(lambda made: os.fork())

def writable(fd):
    import fcntl
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
'''
CASES = ["typical"]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    path = tmp_path_factory.mktemp("kernels") / "kernels.py"
    path.write_text(KERNELS, encoding="utf-8")
    return path


def isolated(kernels, name, **options):
    options = {"cases": CASES, "isolated": True, "time_limit": 20, "memory_limit": 300, **options}
    return check(f"{kernels}:{name}", refloss.CrossEntropy(), **options)


def test_a_right_kernel_passes_with_the_same_numbers(kernels):
    report = isolated(kernels, "right", cases="quick")
    assert report.passed, report
    scope: dict = {}
    exec(KERNELS, scope)
    here = check(scope["right"], refloss.CrossEntropy(), cases="quick")
    assert [r.ratios for r in report.results] == [r.ratios for r in here.results]
    assert report.notes == here.notes


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("exits", "exited", "SystemExit: 0 (/"),
        ("ends", "exited", "ended its process with exit status 0"),
        ("crashes", "crashed", "died of SIGSEGV"),
        ("fills", "memory", "Unable to allocate"),
        ("recurses", "exception", "RecursionError"),
        ("interrupts", "exception", "KeyboardInterrupt"),
        ("lies", "wrong_type", "loss came as an array of object"),
        ("owns", "wrong_type", "an array whose arithmetic is its own"),
        ("ends_parent", "crashed", "died of SIGTERM (ended"),
        ("closes", "crashed", "channel"),
        ("forges", "crashed", "the kernel's process "),
        ("prints", "printed", "the kernel printed 5,242,880 bytes"),
        ("patches", "global_state", "numpy.allclose was replaced"),
        ("reseeds", "global_state", "the random numbers of NumPy were reseeded"),
        ("strict", "global_state", "np.geterr() was"),
        ("flattens", "global_state", "sys.getrecursionlimit() was 1000 and is 500"),
        ("keeps", "global_state", "gc.isenabled() was True and is False"),
        ("traces", "global_state", "sys.gettrace() was None and is <function"),
        ("moves", "global_state", "the current folder was"),
        ("unsets", "global_state", "the environment variable PATH was changed"),
        ("forks", "global_state", "the kernel forked"),
    ],
)
@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="signals and limits are those of Linux")
def test_no_misbehaviour_passes(kernels, name, kind, words):
    report = isolated(kernels, name)
    assert not report.passed
    told = [failure.message for failure in report.failures if failure.kind == kind]
    assert any(words in message for message in told), report.failures
    assert words.split("(")[0] in str(report).replace("\n      ", " ")


@pytest.mark.parametrize("in_process", [True, False], ids=["here", "isolated"])
@pytest.mark.parametrize("name", ["overwrites", "writes_later"])
def test_what_changes_after_it_came_back(kernels, name, in_process):
    scope: dict = {}
    exec(KERNELS, scope)
    options = {"cases": "quick"}
    report = check(scope[name], refloss.CrossEntropy(), **options) if in_process else isolated(kernels, name, **options)
    assert any(f.kind == "overwritten" for f in report.failures)


def test_a_draw_is_a_note_and_no_failure(kernels):
    report = isolated(kernels, "draws", cases="quick")
    assert report.passed
    assert "the kernel draws from the global random numbers of NumPy" in report.notes


def test_a_hanging_kernel_is_left_and_not_called_again(kernels):
    """Three times without an answer; the other cases are not run, and do not pass."""
    report = isolated(kernels, "hangs", cases="quick", time_limit=0.5)
    kinds = [failure.kind for failure in report.failures]
    assert kinds.count("timeout") == 3
    assert kinds.count("not_run") == len(report.results) - 3 > 0
    [first, *_] = report.failures
    assert first.message.startswith("no answer within 0.5 s; it was in File")
    assert "kernels.py" in first.message
    assert str(report).splitlines()[2].startswith("timeout in 3 of ")  # and not what was not run


def test_what_harms_nobody_is_no_failure(kernels):
    assert isolated(kernels, "deepens").passed


def test_a_library_may_be_imported_in_a_call(kernels):
    pytest.importorskip("torch")
    report = isolated(kernels, "lazy", cases="quick", memory_limit=4096)
    assert report.passed, report


def processes_with(mark):
    """The processes that were started with this in their environment, or below one that was."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                found += [name] if mark.encode() in file.read() else []
        except OSError:
            pass
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="what a kernel leaves running is found on Linux")
def test_nothing_goes_on_after_the_check(kernels, monkeypatch):
    mark = f"REFLOSS_TEST={os.getpid()}"
    monkeypatch.setenv(*mark.split("="))
    assert isolated(kernels, "starts").passed
    assert processes_with(mark) == []


@pytest.mark.skipif(sys.platform != "linux", reason="what a kernel leaves running is found on Linux")
def test_nothing_goes_on_when_the_judge_is_gone(kernels):
    mark = f"REFLOSS_TEST={kernels}"
    call = [sys.executable, "-m", "refloss", "check", f"{kernels}:hangs", "--loss", "cross_entropy"]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "REFLOSS_TEST": str(kernels)}
    judge = subprocess.Popen(call, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    until(lambda: len(processes_with(mark)) == 3)  # it, the guard and the kernel
    judge.kill()
    judge.wait()
    until(lambda: processes_with(mark) == [])


def until(holds, seconds=30):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_the_reproducer_of_an_isolated_failure_is_isolated(kernels, capfd):
    report = isolated(kernels, "ends")
    assert "import kernels" not in report.reproducer
    exec(report.reproducer, {})
    assert "exited in 1 of 1 cases" in capfd.readouterr().out
    report = isolated(kernels, "lies")
    assert "isolated" not in report.reproducer


def test_here_an_exit_is_a_failure_and_an_interrupt_is_not(kernels):
    def leaves(logits, targets):
        sys.exit(0)

    def interrupted(logits, targets):
        raise KeyboardInterrupt

    report = check(leaves, refloss.CrossEntropy(), cases=CASES)
    assert {failure.kind for failure in report.failures} == {"exited"}
    with pytest.raises(KeyboardInterrupt):
        check(interrupted, refloss.CrossEntropy(), cases=CASES)


def test_what_cannot_be_told_from_zero_is_not_checked():
    """A loss of 0.0 within a slack that lets everything pass; with the slack of everybody it fails."""

    def nothing(logits, targets):
        return {"loss": np.float32(0)}

    report = check(nothing, refloss.CrossEntropy(), cases="quick", slack=1e7)
    assert not report.passed
    assert "zero" in report.not_checked["loss"]
    assert check(nothing, refloss.CrossEntropy(), cases="quick").failures


@pytest.mark.parametrize(
    ("kernel", "options", "words"),
    [
        (lambda logits, targets: 0.0, {}, "isolated=True needs a kernel that its process can find by name"),
        (check, {"time_limit": 0}, "time_limit must be a positive number, got 0"),
        (check, {"memory_limit": float("nan")}, "memory_limit must be a positive number, got nan"),
    ],
    ids=["a lambda", "no time", "no memory"],
)
def test_wrong_calls(kernel, options, words):
    with pytest.raises(ValueError, match=words):
        check(kernel, refloss.CrossEntropy(), isolated=True, **options)


# -- the command line ------------------------------------------------------------------------------


def test_the_report_is_whole_and_alone_on_standard_output(kernels, tmp_path, capfd):
    call = ["check", f"{kernels}:ends", "--loss", "cross_entropy", "--case", "typical", "--format", "json"]
    assert main([*call, "--output", str(tmp_path / "report.json")]) == 1
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert report["passed"] is False
    assert report["results"][0]["failures"][0]["kind"] == "exited"
    call[1] = f"{kernels}:prints"
    assert main(call) == 1
    out, err = capfd.readouterr()
    assert json.loads(out)["passed"] is False
    assert err.count("x") == 2**20
    assert err.endswith("x\n(no more of it is shown)\n")


def test_a_message_of_bytes_that_are_no_text(tmp_path, capsys):
    """Such as the name of a file that another system wrote."""
    path = tmp_path / "bytes.py"
    path.write_text(r"def f(logits, targets): raise OSError('\udcff \x00 \x1b[31m θ')", encoding="utf-8")
    call = ["check", f"{path}:f", "--loss", "cross_entropy", "--case", "typical", "--output", str(tmp_path / "report")]
    for form in ("text", "json", "junit"):
        assert main([*call, "--format", form]) == 1
        text = (tmp_path / "report").read_text(encoding="utf-8")
        assert r"\udcff \x00 \x1b[31m θ" in text.replace("\\\\", "\\")

    def here(logits, targets):
        raise OSError("\udcff")

    assert r"OSError: \udcff" in str(check(here, refloss.CrossEntropy(), cases=CASES))


@pytest.mark.parametrize("line", ["import sys; sys.exit(0)", "import os; os._exit(0)"])
def test_a_file_that_ends_the_process_on_import(tmp_path, line, capsys):
    path = tmp_path / "file.py"
    path.write_text(f"{line}\n")
    assert main(["check", f"{path}:f", "--loss", "softmax", "--quick"]) == 2
    assert "fails on import" in capsys.readouterr().err
    assert main(["gradcheck", "--loss", f"{path}:f"]) == 2
    assert "--loss" in capsys.readouterr().err


def test_a_loss_that_ends_the_process_of_gradcheck(tmp_path, capsys):
    path = tmp_path / "file.py"
    path.write_text("import os\nclass Ends:\n def forward(self, *a): os._exit(0)\n def backward(self, *a): ...\n")
    assert main(["gradcheck", "--loss", f"{path}:Ends"]) == 2
    assert "ended its process with exit status 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "options", "words"),
    [
        ("time.sleep(600)", ["--time-limit", "1"], "no answer within 1 s; it was in File"),
        ("np.ones(10**9)", ["--memory-limit", "100"], "MemoryError"),
        ("sys.exit(0)", [], "SystemExit: 0"),
        ("1", ["--time-limit", "0"], "--time-limit must be a positive number, got 0"),
        ("1", ["--memory-limit", "nan"], "--memory-limit must be a positive number, got nan"),
    ],
)
@pytest.mark.parametrize("where", ["on import", "in a call"])
def test_gradcheck_has_the_same_limits(tmp_path, line, options, words, where, capsys):
    path, target = tmp_path / "file.py", tmp_path / "report.json"
    on_import, in_call = (line, "0") if where == "on import" else ("0", line)
    path.write_text(
        f"import sys, time\nimport numpy as np\n{on_import}\nclass Mine:\n"
        f" def forward(self, *a): {in_call}\n def backward(self, *a): ...\n"
    )
    assert main(["gradcheck", "--loss", f"{path}:Mine", "--output", str(target), *options]) == 2
    assert words in capsys.readouterr().err
    assert not target.exists()


def test_what_a_loss_prints_is_no_part_of_the_report_of_gradcheck(tmp_path, capsys):
    path = tmp_path / "file.py"
    path.write_text("import refloss\nclass Mine(refloss.Softmax().__class__):\n def forward(self, *a):\n"
                    "  print('hello')\n  return super().forward(*a)\n")  # fmt: skip
    assert main(["gradcheck", "--loss", f"{path}:Mine", "--case", "typical", "--format", "json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["passed"] is True
    assert "hello" in shown.err


def test_the_judge_does_not_import_the_file(kernels):
    code = "import sys; from refloss.cli.main import main; main(sys.argv[1:]); print('kernels' in str(sys.modules))"
    call = [sys.executable, "-c", code, "check", f"{kernels}:right", "--loss", "cross_entropy", "--case", "typical"]
    paths = {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(call, capture_output=True, text=True, env={**os.environ, **paths})
    assert done.stdout.splitlines()[-1] == "False", done.stderr


# -- what goes between the two ---------------------------------------------------------------------


def test_messages():
    """What is sent comes back; what is not a message is refused and not run."""
    stream = io.BytesIO()
    message = {"a": [1, None, "ö"], "b": np.arange(6.0).reshape(2, 3)[:, ::2], "c": {"d": np.int64(7)[...]}}
    send(stream, message)
    data = stream.getvalue()
    found = receive(io.BytesIO(data), 1000)
    assert found["a"] == message["a"]
    np.testing.assert_array_equal(found["b"], message["b"])
    with pytest.raises(EOFError):
        receive(io.BytesIO(data[:-1]), 1000)
    with pytest.raises(BadMessage):
        receive(io.BytesIO(data), 8)
    for old, new in ((b"float64", b"objectX"), (b"[2, 2]", b"[9, 2]"), (b"{", b"]"), (b"[2, 2]", b"[-1,2]")):
        with pytest.raises(BadMessage):
            receive(io.BytesIO(data.replace(old, new, 1)), 1000)

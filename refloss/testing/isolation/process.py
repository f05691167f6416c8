"""The side that judges: it starts the process of the kernel, asks it, and survives whatever becomes of it."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refloss.cases.case import Case
from refloss.record import STAGES
from refloss.testing.adapters import FROM_FILE, LOST, Framework, Outcome, Problem, Takes, UnfitImplementation
from refloss.testing.adapters.numpy import to_values
from refloss.testing.adapters.words import one_line
from refloss.testing.isolation import serving
from refloss.testing.isolation.wire import UNHEARD, BadMessage, receive, send

DEATHS = 3  # after so many the kernel is not called again
FRAMEWORK = 600.0  # seconds in which the framework must have been imported; that is not the kernel's doing
PRINTED = 1 << 20  # bytes of what a kernel prints that are passed on; more is a failure
WORDS = 400  # characters of a message that are shown
ONLY_ISOLATED = ("exited", "memory", "crashed", "timeout", "global_state", "printed")  # elsewhere not told, or the end
KINDS = ("mutated", "overwritten", "wrong_type", "unwritten", "no_gradient", "global_state", "printed", *LOST)


class NamedKernel:
    """A kernel that is known by name alone: "FILE.py:FUNCTION", "package.module:FUNCTION" or a function found so."""

    def __init__(self, kernel: Any) -> None:
        self.where = kernel if isinstance(kernel, str) else _name_of(kernel)
        place, _, self.__qualname__ = self.where.rpartition(":")
        is_file = place.endswith(".py")
        self.__file__ = os.path.abspath(place) if is_file else None
        self.folder = os.path.dirname(self.__file__) if self.__file__ else os.getcwd()
        self.__module__ = FROM_FILE + os.path.basename(place).removesuffix(".py") if is_file else place


def _name_of(kernel: Any) -> str:
    module, name = getattr(kernel, "__module__", None), getattr(kernel, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str) or "<" in name:
        raise UnfitImplementation(
            "isolated=True needs a kernel that its process can find by name: a function of a module or file, or "
            f"'FILE.py:FUNCTION', got {kernel!r}"
        )
    file = getattr(sys.modules.get(module), "__file__", None)
    return f"{file if file and file.endswith('.py') and module == '__main__' else module}:{name}"


class IsolatedAdapter:
    """An `Adapter` whose kernel is loaded and called in a process of its own, and nowhere else.

    What the process sends are numbers and words; nothing in them is run. After it died, or did not answer in time, a
    new one is started for the next call; after three of that, `stopped` says why nothing is called any more.

    kernel        "FILE.py:FUNCTION", "package.module:FUNCTION", or a function that its module has under its name
    time_limit    seconds for each call, gradients included, and for the import of the file
    memory_limit  MiB that the process may take besides what its framework takes (Linux)
    """

    def __init__(
        self, kernel: Any, bare: bool, framework: str | Framework, dtype: str, device: str | None, time_limit: float,
        memory_limit: float, arguments: Mapping[str, str] | None = None, returns: int | None = None,
        mutates: Sequence[str] = (),
    ) -> None:  # fmt: skip
        for name, value in (("time_limit", time_limit), ("memory_limit", memory_limit)):
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {value!r}")
        if isinstance(framework, Framework):
            words = "isolated=True needs a framework that its process can find: its name, or 'FILE.py:NAME' of your own"
            raise UnfitImplementation(words)
        self.kernel = NamedKernel(kernel)
        self.time_limit, self.memory_limit, self.bare = time_limit, memory_limit, bare
        self.declared = {"arguments": arguments, "returns": returns, "mutates": mutates}
        self.asked = {"isolated": True, "time_limit": time_limit, "memory_limit": memory_limit}  # as of `check`
        self.started = {"framework": framework, "dtype": dtype, "device": device, "memory": memory_limit}
        self.stopped, self.deaths, self.printed, self.notes = "", 0, 0, dict[str, None]()
        self._process: Process | None = None
        self._takes = self._start()

    def signature(self, *asked: Any) -> Takes:
        """How the kernel is called; it was asked when it was loaded."""
        return self._takes

    def call(
        self, kernel: Any, case: Case, takes: Takes, *, per_sample: bool,
        out_shapes: Mapping[str, tuple[int, ...]] | None = None, upstream_scale: float = 1.0,
        between: Case | None = None,
    ) -> Outcome:  # fmt: skip
        """As `Adapter.call`; that the process is gone or did not answer is a problem of the outcome."""
        asked = {
            "do": "call",
            "case": _told(case),
            "takes": vars(takes),
            "per_sample": per_sample,
            "out_shapes": None if out_shapes is None else {s: list(shape) for s, shape in out_shapes.items()},
            "upstream_scale": upstream_scale,
            "between": None if between is None else _told(between),
        }
        return self._outcome("losses" if per_sample else "loss", asked)

    def along(
        self, kernel: Any, case: Case, takes: Takes, way: Mapping[str, Any], *, per_sample: bool, second: bool
    ) -> tuple[dict[str, Any], str]:
        """As `Adapter.along`."""
        asked = {"do": "along", "case": _told(case), "takes": vars(takes), "way": dict(way), "per_sample": per_sample,
                 "second": second}  # fmt: skip
        answer = self._asked("losses" if per_sample else "loss", asked)
        if isinstance(answer, Outcome):
            return {}, answer.problems[0].message
        found = answer.get("along")
        if not isinstance(found, dict) or not all(isinstance(array, np.ndarray) for array in found.values()):
            return {}, _words(answer.get("raised") or BAD)
        return dict(found), _words(answer.get("raised", ""))

    def finish(self) -> list[Problem]:
        """What is wrong after the last call."""
        problems: list[Problem] = []
        if self._process is not None:
            problems = self._outcome("loss", {"do": "finish"}).problems
        printed = self.printed + (self._process.printing.printed if self._process is not None else 0)
        if printed > PRINTED:
            problems.append(Problem("printed", "loss", f"the kernel printed {printed:,} bytes"))
        return problems

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.close()
            self.printed += self._process.printing.printed
        self._process = None

    # -- the process -------------------------------------------------------------------------------

    def _start(self) -> Takes:
        """A new process with the framework, then the kernel, in it."""
        self._process = Process()
        try:
            return self._loaded(self._process)
        except UnfitImplementation:
            self.close()
            raise

    def _loaded(self, process: Process) -> Takes:
        where = self.kernel.where
        try:
            self._unfit(process.ask({"do": "start", **self.started}, FRAMEWORK, WORDS))
        except Died as death:
            raise UnfitImplementation(f"the process for the kernel does not start: {death}") from None
        try:
            asked = {"do": "load", "kernel": where, "folder": self.kernel.folder, "bare": self.bare,
                     **self.declared}  # fmt: skip
            answer = process.ask(asked, self.time_limit, WORDS)
            self._unfit(answer)
            if problems := answer.get("problems"):
                raise UnfitImplementation(f"{where} fails on import: {_words(problems[0][2])}")
            return Takes.read(answer["takes"])
        except UnfitImplementation:
            raise
        except Died as death:
            raise UnfitImplementation(f"{where} fails on import: {death}") from None
        except (LookupError, TypeError, ValueError):
            raise UnfitImplementation(f"{where} fails on import: {BAD}") from None

    def _unfit(self, answer: Mapping[str, Any]) -> None:
        if "unfit" in answer:
            raise UnfitImplementation(_words(answer["unfit"]))

    def _asked(self, whole: str, message: dict[str, Any]) -> Outcome | dict[str, Any]:
        """The answer, or the outcome of a call that has none."""
        if self.stopped:
            return Outcome(problems=[Problem("not_run", whole, self.stopped)])
        try:
            if self._process is None:
                self._start()
        except UnfitImplementation as error:
            self.stopped = f"not run: the kernel cannot be loaded again: {error}"
            return Outcome(problems=[Problem("not_run", whole, self.stopped)])
        assert self._process is not None
        try:
            answer = self._process.ask(message, self.time_limit, int(self.memory_limit * 2**20))
        except Died as death:
            return self._lost(whole, death)
        self._unfit(answer)
        return answer

    def _outcome(self, whole: str, message: dict[str, Any]) -> Outcome:
        answer = self._asked(whole, message)
        if isinstance(answer, Outcome):
            return answer
        try:
            outcome, notes = _read(answer)
        except (LookupError, TypeError, ValueError):
            return self._lost(whole, Died("crashed", BAD))
        self.notes |= dict.fromkeys(notes)
        return outcome

    def _lost(self, whole: str, death: Died) -> Outcome:
        self.close()
        self.deaths += 1
        if self.deaths == DEATHS:
            self.stopped = f"not run: the kernel's process was lost {DEATHS} times before"
        return Outcome(problems=[Problem(death.kind, whole, str(death))])


class Died(Exception):
    """The process is gone, or as good as gone. kind: "exited", "crashed", "timeout" or "memory"."""

    def __init__(self, kind: str, words: str) -> None:
        super().__init__(words)
        self.kind = kind


BAD = "the kernel's process answered what cannot be read: something else wrote to its channel"


class Process:
    """One process, asked one thing after the other.

    worker  the module whose `Worker` answers there
    """

    def __init__(self, worker: str = "refloss.testing.isolation.worker") -> None:
        # the same modules as here, wherever they were found
        call = [sys.executable, serving.__file__, worker, str(os.getpid()), *sys.path]
        pipe = subprocess.PIPE
        self.popen = subprocess.Popen(call, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True)
        self.number = 0
        self.printing = Printing(self.popen.stderr)
        self.printing.start()
        self._asking: list[threading.Thread] = []  # the last thread that asked
        self._ended = weakref.finalize(self, _end, self.popen, self.printing, self._asking)

    def ask(self, message: dict[str, Any], seconds: float, limit: int) -> dict[str, Any]:
        """Its answer, of no more than `limit` bytes of arrays; raises Died.

        seconds  in which it must have answered or said that it goes on
        """
        self.number += 1
        found: queue.SimpleQueue[Any] = queue.SimpleQueue()
        arguments = (self.popen, {**message, "number": self.number}, limit, found)
        self._asking[:] = [threading.Thread(target=_exchange, args=arguments, daemon=True)]
        self._asking[0].start()
        try:
            while (answer := found.get(timeout=seconds)) is None:
                pass
        except queue.Empty:
            place = self._where()
            self.close()
            raise Died("timeout", f"no answer within {seconds:g} s{place}") from None
        if isinstance(answer, BadMessage):
            self.close()
            raise Died("crashed", f"the kernel's process sent {answer}")
        if isinstance(answer, Exception) or self.popen.poll() is not None:
            raise self._death()
        if answer.get("number") != self.number:
            self.close()
            raise Died("crashed", BAD)
        return answer

    def close(self) -> None:
        """Ends it and what it started."""
        self._ended()

    def _death(self) -> Died:
        try:
            status = self.popen.wait(1.0)
        except subprocess.TimeoutExpired:
            self.close()
            return Died("crashed", "the kernel closed the channel of its process, which goes on")
        self.close()
        if status == UNHEARD:
            return Died("crashed", "the kernel closed or filled the channel of its process")
        if status >= 0:
            return Died("exited", f"the kernel ended its process with exit status {status}")
        name = signal.Signals(-status).name if -status in set(signal.Signals) else f"signal {-status}"
        more = {"SIGKILL": " (ended from outside; out of memory?)", "SIGTERM": " (ended from outside)"}.get(name, "")
        return Died("crashed", f"the kernel's process died of {name}{more}")

    def _where(self) -> str:
        """The line in which it is, if it can still say so."""
        if not hasattr(signal, "SIGUSR1") or self.popen.poll() is not None:
            return ""
        self.printing.silent = True
        self.popen.send_signal(signal.SIGUSR1)
        for _ in range(20):
            self.printing.join(0.05)
            if b"serve" in self.printing.tail:
                break
        package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        lines = self.printing.tail.decode(errors="replace").splitlines()
        frames = [line.strip() for line in lines if line.startswith('  File "') and "<frozen" not in line]
        outer = [line for line in frames if package not in line]
        return f"; it was in {outer[0]}" if outer else ""


class Printing(threading.Thread):
    """Passes on what the process prints, up to a limit, and reads the rest.

    printed  bytes so far
    silent   nothing is passed on any more
    tail     the last of it
    """

    def __init__(self, stream: Any) -> None:
        super().__init__(daemon=True)
        self.stream, self.printed, self.silent, self.tail = stream, 0, False, b""

    def run(self) -> None:
        with contextlib.suppress(ValueError, OSError):
            while text := self.stream.read1(1 << 16):
                room = 0 if self.silent else max(PRINTED - self.printed, 0)
                shown = text[:room] + (b"\n(no more of it is shown)\n" if 0 < room <= len(text) else b"")
                self.printed += len(text)
                self.tail = (self.tail + text)[-8192:]
                with contextlib.suppress(Exception):  # a closed standard error
                    sys.stderr.write(shown.decode(errors="replace"))
                    sys.stderr.flush()


def _exchange(popen: Any, message: dict[str, Any], limit: int, found: Any) -> None:
    """Asks and waits, in a thread: neither writing nor reading may stop who asks."""
    try:
        send(popen.stdin, message)
        while (answer := receive(popen.stdout, limit)).get("goes_on"):
            found.put(None)
        found.put(answer)
    except BadMessage as error:
        found.put(error)
    except Exception:  # the pipe is closed
        found.put(EOFError())


def _end(popen: Any, printing: threading.Thread, asking: list[threading.Thread]) -> None:
    """Ends the process and those that it started."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        popen.terminate()
        popen.wait(5.0)
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        if hasattr(os, "killpg"):
            os.killpg(popen.pid, signal.SIGKILL)
        popen.kill()
        popen.wait(5.0)
    for threads, streams in (([printing], [popen.stderr]), (asking, [popen.stdin, popen.stdout])):
        for thread in threads:
            thread.join(1.0)
        if not any(thread.is_alive() for thread in threads):  # what it left behind may hold the other end open
            for stream in streams:
                with contextlib.suppress(OSError):
                    stream.close()


def _told(case: Case) -> dict[str, Any]:
    """What a process needs of it."""
    labels = np.asarray(case.labels)
    return {
        "inputs": {name: np.asarray(v, dtype=np.float64) for name, v in case.inputs.items()},
        "labels": labels.astype(np.int64 if labels.dtype.kind in "iu" else np.float64),
        "upstream": np.asarray(case.upstream, dtype=np.float64),
        "upstreams": np.asarray(case.upstreams, dtype=np.float64),
        "layout": case.layout,
    }


# -- what it says, read with care ------------------------------------------------------------------


def _read(answer: Mapping[str, Any]) -> tuple[Outcome, list[str]]:
    """The outcome and notes in an answer; LookupError, TypeError or ValueError if it is not one."""
    outcome = Outcome()
    for kind, stage, message in answer["problems"]:
        known = kind if kind in KINDS else "exception"
        outcome.note(known, stage if stage in STAGES else "loss", _words(message))
    for part in answer["stages"]:
        stage, dtype, bits = part["stage"], _words(part["dtype"]), part["bits"]
        if stage not in STAGES or not isinstance(bits, np.ndarray):
            raise ValueError("no stage")
        values = to_values(bits, "bfloat16") if dtype == "bfloat16" else bits.astype(np.float64)
        outcome.stages[stage], outcome.dtypes[stage] = np.asarray(values), dtype
        outcome.bits[stage] = bits.tobytes()
    reduced = answer.get("reduced")
    outcome.reduced = reduced if reduced in ("loss", "losses") else None
    outcome.differentiated = tuple(stage for stage in answer.get("differentiated", ()) if stage in STAGES)
    return outcome.ordered(), [_words(note) for note in answer["notes"][:8]]


def _words(text: Any) -> str:
    return one_line(text, WORDS)

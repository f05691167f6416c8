"""What a process for somebody's code does, run as a script: a guard stays, and its child answers what it is asked."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import signal
import sys
from typing import Any, BinaryIO

with contextlib.suppress(ImportError):
    import resource  # not on Windows

SUBREAPER, DEATH_SIGNAL = 36, 1  # of prctl: orphans become children of this process; what comes when the parent ends


def main(worker: str, judge: str, *path: str) -> None:
    """Answers what comes on standard input, on what was standard output.

    worker  the module whose `Worker` does it
    judge   the process id of who asks
    path    its sys.path
    """
    sys.path[:] = path
    with contextlib.suppress(NameError, OSError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        guard(int(judge))  # before anything is imported that starts threads
    asked, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    from refloss.testing.isolation.wire import UNHEARD

    answering = importlib.import_module(worker).Worker()
    try:
        # what is printed goes to standard error, and there is nothing to read
        os.dup2(2, 1)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if hasattr(signal, "SIGUSR1"):
            import faulthandler

            faulthandler.register(signal.SIGUSR1, all_threads=False)
        serve(asked, answers, answering)
    finally:
        os._exit(UNHEARD)  # nobody asks any more, and nothing that was left running may go on


def guard(judge: int) -> None:
    """Forks, and returns in the child; the parent ends as the child does, after all that the child left running.

    So the judge is neither parent nor group of what it calls, and when the judge is gone nothing goes on.
    """
    prctl, told = ctypes.CDLL(None).prctl, {signal.SIGCHLD, signal.SIGTERM, signal.SIGUSR1}
    prctl(SUBREAPER, 1, 0, 0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started the judge may have ignored it
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, told)
    child = os.fork()
    if not child:
        prctl(DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nothing, stream)
    ended_by = 0
    while not (found := os.waitpid(child, os.WNOHANG))[0]:
        heard = signal.sigtimedwait(told, 1.0)
        if heard and heard.si_signo == signal.SIGUSR1:
            os.kill(child, signal.SIGUSR1)
        elif os.getppid() != judge or (heard and heard.si_signo == signal.SIGTERM):
            ended_by = signal.SIGTERM
            os.kill(child, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            for left in _children():
                os.kill(left, signal.SIGKILL)
            os.waitpid(-1, 0)
    status = found[1]
    if ended_by or os.WIFSIGNALED(status):
        ended_by = ended_by or os.WTERMSIG(status)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        with contextlib.suppress(OSError):  # SIGKILL has no other
            signal.signal(ended_by, signal.SIG_DFL)
        os.kill(os.getpid(), ended_by)
    os._exit(os.WEXITSTATUS(status))


def _children() -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
            if int(file.read().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(name))
    return found


def serve(asked: BinaryIO, answers: BinaryIO, worker: Any) -> None:
    """One answer to each message; between the two, `worker.goes_on()` says that there is one to come."""
    from refloss.testing.isolation.wire import receive, send

    process, (forks, forked) = os.getpid(), os.pipe()
    os.set_blocking(forks, False)
    worker.goes_on = lambda: send(answers, {"goes_on": True})
    while True:
        message = receive(asked, sys.maxsize)
        answer = worker.answer(message)
        if os.getpid() != process:  # the kernel forked: one of the two answers
            os.write(forked, b"1")
            return
        with contextlib.suppress(OSError):
            if os.read(forks, 1) and "problems" in answer:
                answer["problems"].append(("global_state", "loss", "the kernel forked, and its copy went on as well"))
        send(answers, {**answer, "number": message["number"]})


def limit_memory(mebibytes: float) -> None:
    """What may be written to besides what is in use now: not addresses, of which frameworks reserve many."""
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            used = next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmData"))
        most = used + int(mebibytes * 2**20)
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    except (OSError, NameError, StopIteration):  # no Linux
        pass


if __name__ == "__main__":
    main(*sys.argv[1:])

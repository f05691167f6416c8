"""What a loss and its gradients cost, beside three matrix products and beside others: makes docs/performance.md.

python tests/benchmarks/speed.py           # all of it; writes docs/performance.md and docs/performance.svg
python tests/benchmarks/speed.py --quick   # few rounds, up to 1e5 classes, printed only

Every contender runs in turns with the floor in one process, on as many cores as it has threads; a time is the median of
its rounds over the median of the floor's. The floor: the matrix products x Wᵀ, g W and gᵀ x. All compute in float64.

Each turn follows itself: after a pause, in which threads that still wait for work fall asleep, and a call that is not
counted, which fills the caches. Otherwise what the floor takes depends on whose call came before it.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import math
import os
import platform
import pstats
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SHAPES = [(256, 512, 20000), (128, 128, 10000), (1024, 64, 1000)]  # N, D, C
SMALL = (8, 2, 10)
PAUSE = 0.1  # seconds before a turn
CONTENDERS = ["refloss", "textbook NumPy", "autograd", "torch eager", "torch compiled", "JAX jit"]
EXTENDED = (256, 512, 2000)  # for precision="extended"
PROFILED = [*(("double", shape) for shape in SHAPES), ("extended", EXTENDED)]
CLASSES = [10**3, 10**4, 10**5, 10**6, 2 * 10**6]  # of the plot, with N = 64 and D = 128


def problem(N: int, D: int, C: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(N, D)), rng.normal(size=(C, D)), rng.integers(0, C, size=N)


def make(name: str, classes: int, **options: Any) -> Any:
    import refloss

    weights = {"class_weights": np.ones(classes)} if name == "weighted_softmax" else {}
    return refloss.get(name, **weights, **options)


# -- contenders: each gives a function that computes the loss and the gradients in x and W -------------


def mean_loss(xp: Any, loss: Any, x: Any, W: Any, y: Any) -> Any:
    """A loss of the survey as one writes it in a framework: cosines, the target's logit by its angle, cross-entropy."""
    rows, name = xp.arange(len(y)), loss.name
    x_norm, W_norm = (xp.sqrt(xp.sum(v * v, -1)) for v in (x, W))
    if name in ("softmax", "weighted_softmax"):
        z = x @ W.T
    elif name == "w_norm_softmax":
        z = x @ (W / W_norm[:, None]).T
    elif name == "l2_softmax":
        z = loss.alpha * (x / x_norm[:, None]) @ W.T
    else:
        cos = (x / x_norm[:, None]) @ (W / W_norm[:, None]).T
        theta = xp.arccos(cos[rows, y])
        if name == "arcface":
            psi = xp.cos(theta + loss.margin)
        elif name == "am_softmax":
            psi = cos[rows, y] - loss.margin
        else:
            k = xp.floor(loss.margin * theta / math.pi)
            psi = (1 - 2 * (k % 2)) * xp.cos(loss.margin * theta) - 2 * k
        own = xp.arange(len(W))[None, :] == y[:, None]
        z = xp.where(own, psi[:, None], cos)
        if name == "l_softmax":
            z = z * x_norm[:, None] * W_norm
        else:
            z = z * (x_norm[:, None] if name == "a_softmax" else loss.scale)
    return xp.mean(xp.logsumexp(z) - z[rows, y])


def of_refloss(loss: Any, x: np.ndarray, W: np.ndarray, y: np.ndarray) -> Callable:
    return lambda: loss.value_and_grad(x, W, y)


def of_textbook(loss: Any, x: np.ndarray, W: np.ndarray, y: np.ndarray) -> Callable | None:
    """p − t, and for ArcFace the derivative of s cos(θ + m) in the cosine."""
    rows, N = np.arange(len(y)), len(y)

    def ends(z: np.ndarray) -> tuple[float, np.ndarray]:
        e = np.exp(z - z.max(axis=1, keepdims=True))
        p = e / e.sum(axis=1, keepdims=True)
        value = -np.log(p[rows, y]).mean()
        p[rows, y] -= 1
        return value, p / N

    def softmax() -> Any:
        value, g = ends(x @ W.T)
        return value, g @ W, g.T @ x

    def arcface() -> Any:
        x_norm, W_norm = (np.linalg.norm(v, axis=1, keepdims=True) for v in (x, W))
        x_hat, W_hat = x / x_norm, W / W_norm
        cos = x_hat @ W_hat.T
        theta = np.arccos(cos[rows, y])
        z = loss.scale * cos
        z[rows, y] = loss.scale * np.cos(theta + loss.margin)
        value, g = ends(z)
        h = loss.scale * g
        h[rows, y] *= np.sin(theta + loss.margin) / np.sin(theta)
        grads = []
        for own, norm, gradient in ((x_hat, x_norm, h @ W_hat), (W_hat, W_norm, h.T @ x_hat)):
            grads.append((gradient - own * (own * gradient).sum(axis=1, keepdims=True)) / norm)
        return value, *grads

    return {"softmax": softmax, "arcface": arcface}.get(loss.name)


def of_autograd(loss: Any, x: np.ndarray, W: np.ndarray, y: np.ndarray) -> Callable:
    import autograd.numpy as anp
    from autograd import value_and_grad
    from autograd.scipy.special import logsumexp

    xp = SimpleNamespace(**{name: getattr(anp, name) for name in dir(anp) if not name.startswith("_")})
    xp.logsumexp = lambda z: logsumexp(z, axis=-1)
    xp.where = lambda at, a, b: anp.where(at, a + 0 * b, b)  # its derivative does not know of broadcasting
    run = value_and_grad(lambda both: mean_loss(xp, loss, *both, y))
    return lambda: run((x, W))


def of_torch(loss: Any, x: np.ndarray, W: np.ndarray, y: np.ndarray, compiled: bool) -> Callable:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    x, W = (torch.tensor(v, requires_grad=True) for v in (x, W))
    y = torch.tensor(y)
    names = ("arange", "sqrt", "sum", "arccos", "cos", "floor", "where", "mean")
    xp = SimpleNamespace(**{name: getattr(torch, name) for name in names}, logsumexp=lambda z: torch.logsumexp(z, -1))

    def total() -> Any:
        return mean_loss(xp, loss, x, W, y)

    run = torch.compile(total) if compiled else total

    def both() -> Any:
        value = run()
        return value, torch.autograd.grad(value, (x, W))

    return both


def of_jax(loss: Any, x: np.ndarray, W: np.ndarray, y: np.ndarray) -> Callable:
    import jax

    jax.config.update("jax_enable_x64", True)
    names = ("arange", "sqrt", "sum", "arccos", "cos", "floor", "where", "mean")
    xp = SimpleNamespace(**{name: getattr(jax.numpy, name) for name in names})
    xp.logsumexp = lambda z: jax.scipy.special.logsumexp(z, axis=-1)
    run = jax.jit(jax.value_and_grad(lambda both: mean_loss(xp, loss, *both, jax.numpy.asarray(y))))
    both = jax.numpy.asarray(x), jax.numpy.asarray(W)
    return lambda: jax.block_until_ready(run(both))


OF: dict[str, Callable] = {
    "refloss": of_refloss,
    "textbook NumPy": of_textbook,
    "autograd": of_autograd,
    "torch eager": lambda *at: of_torch(*at, compiled=False),
    "torch compiled": lambda *at: of_torch(*at, compiled=True),
    "JAX jit": of_jax,
}


# -- workers, each a process of its own ----------------------------------------------------------------


def times(contender: str, names: list[str], rounds: int) -> dict:
    """loss → [part of the floor at each shape …, microseconds of a small call]; shapes in turns with the floor."""
    found: dict[str, list] = {name: [] for name in names}
    for N, D, C in SHAPES:
        x, W, y = problem(N, D, C)
        g = np.random.default_rng(1).normal(size=(N, C))

        def floor(x: np.ndarray = x, W: np.ndarray = W, g: np.ndarray = g) -> None:
            x @ W.T, g @ W, g.T @ x

        runs = {name: OF[contender](make(name, C), x, W, y) for name in names}
        calls = 1 if N * D * C > 10**9 else 8
        taken = in_turns({"floor": floor} | {name: run for name, run in runs.items() if run}, rounds, calls)
        for name in names:
            found[name].append(taken[name] / taken["floor"] if name in taken else None)
    x, W, y = problem(*SMALL)
    runs = {name: OF[contender](make(name, SMALL[2]), x, W, y) for name in names}
    taken = in_turns({name: run for name, run in runs.items() if run}, rounds, calls=500)
    for name in names:
        found[name].append(1e6 * taken[name] if name in taken else None)
    return found


def in_turns(runs: dict[str, Callable], rounds: int, calls: int = 1) -> dict[str, float]:
    """Medians in seconds, of so many calls in every round."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(PAUSE)
            run()  # may compile, the first time
            for _ in range(calls):
                start = time.perf_counter()
                run()
                taken[name].append(time.perf_counter() - start)
    return {name: float(np.median(of)) for name, of in taken.items()}


def extended(names: list[str], rounds: int) -> dict:
    """loss → [part of one matrix product, part of the same in doubles]."""
    x, W, y = problem(*EXTENDED)
    runs: dict[str, Callable] = {"product": lambda: x @ W.T}
    for name in names:
        for precision in ("double", "extended"):
            runs[f"{name} {precision}"] = of_refloss(make(name, len(W), precision=precision), x, W, y)
    taken = in_turns(runs, rounds)
    return {name: [taken[f"{name} extended"] / taken[of] for of in ("product", f"{name} double")] for name in names}


# what a part of the time is spent in: functions that do not call one another, by file
PARTS = {
    "matrix products": {"products.py": ("inner", "combine"), "slicing.py": ("_sliced_product",)},
    "the target pairs: θ, its tangents and ψ": {"passes.py": ("_measured",)},
    "exponentials": {"logsumexp.py": ("_below",)},
    "copies and checks of the inputs, checks of the logits": {
        "inputs.py": ("features_and_weights", "no_zero_rows"),
        "results.py": ("finite_logits",),
    },
}
WHERE = (
    "One thread, in Python's profiler. Besides the matrix products a loss goes many times over N × C numbers, "
    "an operation of NumPy at a time; a compiler joins them into a few loops. On two threads torch cuts each operation "
    "in two, while here each thread has blocks of its own, and they wait for one another where Python itself runs, "
    "between the operations: so the second thread gains the less, the less there is to do between."
)


def parts(name: str, precision: str, *shape: int) -> dict[str, float]:
    """Percent of a loss's time by part, as Python's profiler sees it."""
    x, W, y = problem(*shape)
    run = of_refloss(make(name, len(W), precision=precision), x, W, y)
    run()
    profile = cProfile.Profile()
    for _ in range(5):
        profile.runcall(run)
    stats = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    total = sum(own for _, _, own, _, _ in stats.values())
    found = {}
    for part, functions in PARTS.items():
        inside = [at for (file, _, of), at in stats.items() if of in functions.get(Path(file).name, ())]
        assert inside, f"no function of {part}"
        found[part] = 100 * sum(cumulative for *_, cumulative, _ in inside) / total
    return found


def memory(contender: str) -> float | None:
    """MiB that ArcFace at the first shape needs at most, beyond what the process had with its inputs."""
    x, W, y = problem(*SHAPES[0])
    small = problem(64, 512, 2000)
    for at in (small, (x, W, y)):
        run = OF[contender](make("arcface", len(at[1])), *at)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        run()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def growth(classes: int, rounds: int) -> dict:
    """Seconds and private MiB of ArcFace with `out`, W and its gradient in float32 memory maps."""
    N, D = 64, 128
    with tempfile.TemporaryDirectory() as folder:
        W, target = (
            np.memmap(Path(folder) / name, dtype=np.float32, mode="w+", shape=(classes, D)) for name in ("W", "grad")
        )
        for start in range(0, classes, 10000):
            part = W[start : start + 10000]
            part[...] = np.random.default_rng(start).normal(size=part.shape)
        x, y = np.random.default_rng(1).normal(size=(N, D)), np.arange(N)
        loss, seen = make("arcface", classes), [private()]
        loss.value_and_grad(x, W[:1000], y, out={"W": target[:1000]})
        before, taken = private(), []
        for _ in range(rounds):
            start = time.perf_counter()
            loss.value_and_grad(x, W, y, out={"W": target}, progress=lambda done, total: seen.append(private()))
            taken.append(time.perf_counter() - start)
    return {"classes": classes, "seconds": float(np.median(taken)), "MiB": max(0.0, (max(seen) - before) / 1024)}


def private() -> int:
    """KiB of this process that are no file."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))


def worker(threads: int, *what: str) -> Any:
    """What a function of this file gives in a process of its own, on so many cores."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    command = [sys.executable, __file__, "--worker", str(threads), *what]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"{what}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def serve(threads: str, what: str, *given: str) -> None:
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(threads)])
    if what == "times":
        result: Any = times(given[0], given[1].split(","), int(given[2]))
    elif what == "extended":
        result = extended(given[0].split(","), int(given[1]))
    elif what == "parts":
        result = parts(given[0], given[1], *map(int, given[2:]))
    elif what == "memory":
        result = memory(given[0])
    else:
        result = growth(int(given[0]), int(given[1]))
    print(json.dumps(result))


# -- the page ------------------------------------------------------------------------------------------


def measured(rounds: int, contenders: list[str], classes: list[int], cores: list[int]) -> dict:
    import refloss

    names = refloss.losses()
    found: dict[str, Any] = {"times": {}, "extended": {}, "parts": {}, "memory": {}, "growth": []}
    for threads in cores:
        for contender in contenders:
            print(f"{contender}, threads: {threads}", file=sys.stderr)
            found["times"][f"{threads} {contender}"] = worker(threads, "times", contender, ",".join(names), str(rounds))
    for threads in cores:
        found["extended"][str(threads)] = worker(threads, "extended", "softmax,arcface", str(min(rounds, 5)))
    for precision, shape in PROFILED:
        print(f"parts of the time, {shape}", file=sys.stderr)
        found["parts"][f"{precision} {shape}"] = worker(1, "parts", "arcface", precision, *map(str, shape))
    for contender in contenders:
        found["memory"][contender] = worker(cores[-1], "memory", contender)
    for C in classes:
        print(f"{C} classes", file=sys.stderr)
        found["growth"].append(worker(cores[-1], "growth", str(C), "3"))
    return found


def shown(value: Any, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def in_parts(found: dict) -> list[str]:
    """The table of the parts of ArcFace's time, a column a shape."""
    columns = [f"{N} × {D} × {C}" + (", extended" if of == "extended" else "") for of, (N, D, C) in PROFILED]
    of_columns = [found["parts"][f"{precision} {shape}"] or {} for precision, shape in PROFILED]
    lines = ["| ArcFace, % | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for part in PARTS:
        lines.append(f"| {part} | " + " | ".join(shown(of.get(part), 0) for of in of_columns) + " |")
    rest = [100 - sum(of.values()) if of else None for of in of_columns]
    return [*lines, "| the rest: sums, scaling, normalising | " + " | ".join(shown(v, 0) for v in rest) + " |"]


def page(found: dict, contenders: list[str], cores: list[int]) -> str:
    import refloss

    shapes = [f"{N} × {D} × {C}" for N, D, C in SHAPES]
    lines = [
        "# What it costs",
        "",
        "Made by `python tests/benchmarks/speed.py`; the top of that file says how it measures. "
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, NumPy {np.__version__}; "
        "float64.",
        "",
        "`value_and_grad` as a multiple of the *floor*, the three matrix products of the same shape (N × D × C) on the "
        "same cores, and microseconds of a call at 8 × 2 × 10.",
        "",
    ]
    for threads in cores:
        lines += [f"## Threads: {threads}", ""]
        lines += ["| loss | by | " + " | ".join(shapes) + " | call, µs |", "|---" * (len(shapes) + 3) + "|"]
        for name in refloss.losses():
            for contender in contenders:
                row = (found["times"][f"{threads} {contender}"] or {}).get(name)
                if row and any(v is not None for v in row):
                    cells = [*(shown(v) for v in row[:-1]), shown(row[-1], 0)]
                    lines.append(f"| {name} | {contender} | " + " | ".join(cells) + " |")
        lines.append("")
    lines += ["## Where the time goes", "", WHERE, "", *in_parts(found), ""]
    N, D, C = EXTENDED
    lines += [
        '## precision="extended"',
        "",
        f"`value_and_grad` at {N} × {D} × {C}, as a multiple of one matrix product of this shape on the same cores, "
        "and of the same loss in doubles. Every matrix product of pairs is made of 14 or more of doubles.",
        "",
        "| loss | threads | of one matrix product | of doubles |",
        "|---|---|---|---|",
    ]
    for threads in cores:
        for name, (of_product, of_doubles) in (found["extended"][str(threads)] or {}).items():
            lines.append(f"| {name} | {threads} | {shown(of_product, 0)} | {shown(of_doubles, 0)} |")
    lines += ["", f"## Memory of ArcFace at {shapes[0]}", "", "Beyond the process and its inputs, in MiB.", ""]
    lines += ["| by | MiB |", "|---|---|"]
    lines += [f"| {contender} | {shown(found['memory'][contender], 0)} |" for contender in contenders]
    lines += [
        "",
        "## Against the number of classes",
        "",
        'ArcFace, N = 64, D = 128, `out={"W": array}`, W and its gradient in float32 memory maps. '
        "Time is linear in C; private memory is that of a few blocks, and of the kept logits while they are few.",
        "",
        "![Seconds and MiB against the number of classes](performance.svg)",
        "",
        "| classes | seconds | private memory, MiB |",
        "|---|---|---|",
    ]
    lines += [f"| {at['classes']} | {at['seconds']:.3f} | {at['MiB']:.0f} |" for at in found["growth"] if at]
    return "\n".join([*lines, ""])


def plot(found: dict, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "refloss"
    import matplotlib.pyplot as plt

    at = [growth for growth in found["growth"] if growth]
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for axis, key, label in zip(axes, ("seconds", "MiB"), ("seconds", "private memory, MiB"), strict=True):
        axis.plot([g["classes"] for g in at], [g[key] for g in at], "o-")
        axis.set(xscale="log", xlabel="classes", ylabel=label)
    axes[0].set(yscale="log")
    axes[1].set(ylim=(0, None))
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, up to 1e5 classes; print, write nothing")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--by", nargs="*", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    given = parser.parse_args()
    classes = [C for C in CLASSES if not given.quick or C <= 10**5]
    found = measured(2 if given.quick else given.rounds, given.by, classes, given.threads)
    text = page(found, given.by, given.threads)
    if given.quick:
        print(text)
        return
    (ROOT / "docs/performance.md").write_text(text, encoding="utf-8")
    plot(found, ROOT / "docs/performance.svg")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        serve(*sys.argv[2:])
    else:
        main()

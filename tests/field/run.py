"""Released libraries before the oracle, each in a virtual environment of its own with the versions that its file pins.

    python tests/field/run.py                 every library of tests/field/libraries: half an hour, gigabytes
    python tests/field/run.py liger keras     these
    python tests/field/run.py keras --look smoothing     only checks and facts with this word in them
    python tests/field/run.py --page          no library: the tables of docs/findings.md, of the recorded results

Results are lines of JSON in tests/field/results.jsonl, where those of the same library are replaced, and the tables of
docs/findings.md are made of them. `--reuse DIR` names site-packages (of torch, say) that need not be installed again.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.jsonl"
PAGE = ROOT / "docs" / "findings.md"
LIBRARIES = sorted(path.stem.removeprefix("with_") for path in (HERE / "libraries").glob("with_*.py"))
OURS = ("numpy", "scipy", "autograd", "matplotlib", "rich", "threadpoolctl", "ml_dtypes")
BEGIN, END = "<!-- from here: tests/field/run.py --page -->", "<!-- to here -->"


# -- the environments ------------------------------------------------------------------------------


def constant(library: str, name: str, default: Any) -> Any:
    """What the file of a library sets `name` to, without running it."""
    tree = ast.parse((HERE / "libraries" / f"with_{library}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", None) == name:
            return ast.literal_eval(node.value)
    return default


def environment(library: str, folder: Path, reuse: list[str]) -> Path:
    """The Python of its virtual environment, made unless it is there."""
    place = folder / library
    python = place / "bin" / "python"
    wanted = [*OURS, *constant(library, "REQUIRES", ())]
    done = place / "installed.json"
    if done.exists() and json.loads(done.read_text()) == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    if reuse:
        [packages] = place.glob("lib/python*/site-packages")
        (packages / "reused.pth").write_text("\n".join(reuse) + "\n")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    done.write_text(json.dumps(wanted))
    return python


def run(library: str, folder: Path, reuse: list[str], look: str) -> list[dict[str, Any]]:
    """Its results, from a process in its environment."""
    python = environment(library, folder, reuse)
    own = {"PYTHONPATH": os.pathsep.join([str(ROOT), str(HERE)]), "OMP_NUM_THREADS": "1"}
    settings = {**os.environ, **own, **constant(library, "ENVIRONMENT", {})}
    with tempfile.NamedTemporaryFile("r", suffix=".jsonl") as file:
        call = [python, __file__, library, "--inside", file.name, "--look", look]
        subprocess.run(call, check=True, env=settings, cwd=ROOT)
        return [json.loads(line) for line in file]


# -- in an environment -----------------------------------------------------------------------------


def loaded(library: str) -> Any:
    """The file of a library, as a module."""
    sys.path[:0] = [path for path in (str(HERE), str(ROOT)) if path not in sys.path]
    name = f"field_{library}"
    spec: Any = importlib.util.spec_from_file_location(name, HERE / "libraries" / f"with_{library}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inside(library: str, file: str, look: str) -> None:
    """Writes a line of JSON for each check and fact; says on standard error how far it is."""
    from importlib.metadata import version

    module = loaded(library)
    names = [requirement.partition("==")[0] for requirement in module.REQUIRES]
    versions = {name: version(name).partition("+")[0] for name in names}

    def say(result: dict[str, Any]) -> None:
        line = {"library": library, "versions": versions, **result}
        print(json.dumps(line, ensure_ascii=False), file=sys.stderr, flush=True)
        with open(file, "a", encoding="utf-8") as out:
            out.write(json.dumps(line, ensure_ascii=False) + "\n")

    for fact in module.facts.every:
        if look in fact.claim:
            say(fact.result())
    for check in module.CHECKS:
        for dtype in check.dtypes:
            if look in f"{check.kernel.__name__} {check.title} {dtype}":
                say({**check.result(dtype), "command": check.command(library, dtype)})


# -- the page --------------------------------------------------------------------------------------


def recorded() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines()] if RESULTS.exists() else []


def cell(result: dict[str, Any]) -> str:
    """The grade, and how many cases are wrong; ? where a wrong gradient would not have been told."""
    if result["wrong"]:
        return f"{result['grade']} {len(result['wrong'])}/{result['cases']}"
    return f"{result['grade']} ?" if result["not_checked"] else result["grade"]


def made_with(result: dict[str, Any]) -> str:
    return ", ".join(f"{name} {version}" for name, version in result["versions"].items())


def tables(results: list[dict[str, Any]]) -> str:
    """Both tables, as Markdown."""
    dtypes = ("float64", "float32", "float16", "bfloat16")
    rows: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for result in results:
        if "kernel" in result:
            rows.setdefault((result["library"], result["kernel"]), {})[result["dtype"]] = result
    lines = ["| kernel | what it is | made with | cases | float64 | float32 | float16 | bfloat16 | first wrong stage |",
             "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for (library, kernel), by_dtype in rows.items():
        one = next(iter(by_dtype.values()))
        cells = [cell(by_dtype[dtype]) if dtype in by_dtype else "" for dtype in dtypes]
        wrong = dict.fromkeys(
            " ".join([f"`{r['first']}`", *(f"({name})" for name in r["suspects"])])
            for r in by_dtype.values() if r["wrong"] and r["first"]
        )  # fmt: skip
        counts = "–".join(map(str, sorted({r["cases"] for r in by_dtype.values()})))
        shown = [f"`with_{library}.py:{kernel}`", one["title"], made_with(one), counts, *cells, ", ".join(wrong)]
        lines.append("| " + " | ".join(shown) + " |")
    lines += ["", "| library | what is said of it | is it so | seen |", "| --- | --- | --- | --- |"]
    for result in results:
        if "claim" in result:
            so = ("yes" if result["holds"] else "no") + (", by design" if result["kind"] == "design" else "")
            lines.append(f"| {made_with(result)} | {result['claim']} | {so} | {result['seen']} |")
    return "\n".join(lines)


def write_page() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(recorded())}\n\n{END}{after}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("libraries", nargs="*", metavar="NAME", help=f"of {', '.join(LIBRARIES)}")
    parser.add_argument("--look", default="", metavar="WORD", help="only with this word; nothing is recorded")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "refloss-field", metavar="DIR",
                        help="of the environments, which are kept")  # fmt: skip
    parser.add_argument("--reuse", action="append", default=[], metavar="DIR", help="site-packages to build on")
    parser.add_argument("--page", action="store_true", help="only write the tables of docs/findings.md")
    parser.add_argument("--inside", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.libraries) - set(LIBRARIES)):
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(LIBRARIES)}")
    if options.inside:
        return inside(options.libraries[0], options.inside, options.look)
    lost = []
    for library in [] if options.page else options.libraries or LIBRARIES:
        try:
            found = run(library, options.folder, options.reuse, options.look)
        except subprocess.CalledProcessError:  # it said why on standard error
            lost.append(library)
            continue
        if not options.look:
            rest = [line for line in recorded() if line["library"] != library]
            every = sorted([*rest, *found], key=lambda line: LIBRARIES.index(line["library"]))
            RESULTS.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in every), encoding="utf-8")
    if not options.look:
        write_page()
    if lost:
        sys.exit(f"not run: {', '.join(lost)}; what was recorded of them before stands")


if __name__ == "__main__":
    main()

"""A failing input as code that can be pasted."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from refloss.cases.case import Case
from refloss.cases.oracle import cases
from refloss.testing.adapters import FROM_FILE, Framework
from refloss.testing.report import Failure
from refloss.testing.shrink import entries

PRINTED = 400  # numbers; a larger input is named, not printed
TAKEN = ("Case", "case", "check", "framework", "loss", "np", "refloss", "sys")  # names that the code has for its own


def described(loss: Any) -> str:
    """The loss as code that makes it, with every parameter that is not its default."""
    shown = []
    for field in dataclasses.fields(loss):
        value = getattr(loss, field.name)
        own = field.name in ("scale", "margin", "alpha")
        if own or field.default is dataclasses.MISSING or value != field.default:
            shown.append(f"{field.name}={value!r}")
    return f"refloss.{type(loss).__name__}({', '.join(shown)})"


def reproducer(
    kernel: Any, loss: Any, case: Case, whole: Case, options: Mapping[str, Any], failure: Failure | None
) -> str:
    """Code that runs the kernel on this case alone; `whole` is the named case that it was cut from."""
    module, name = str(getattr(kernel, "__module__", "")), getattr(kernel, "__qualname__", "")
    importable = module not in ("", "None", "__main__") and name.isidentifier()
    called = name if importable and name not in TAKEN else "kernel"
    lines = ["import numpy as np", "import refloss", "from refloss.testing import Case, check"]
    if "isolated" in options:
        called = repr(f"{getattr(kernel, '__file__', None) or module}:{name}")  # imported in its own process alone
    elif importable:
        lines += _import_of(
            module, name if called == name else f"{name} as {called}", getattr(kernel, "__file__", None)
        )
    else:
        lines.append("kernel = ...  # yours")
    lines.append("")
    if entries(case) > PRINTED:
        soft, seed = options.get("soft_targets", False), options.get("seed", 0)
        known = any(other.name == whole.name for other in cases(loss, "float32", seed, soft))
        chosen = f"[{whole.name!r}]" if known else "[case]"
        lines += [] if known else [f"case = ...  # yours, {whole.name!r}"]
    else:
        options = {name: value for name, value in options.items() if name not in ("seed", "soft_targets")}
        chosen = "[case]"
        lines += ["case = Case(", f"    name={case.name!r}, reason='shrunk', flags=(),", "    inputs={"]
        lines += [f"        {key!r}: {_array(value)}," for key, value in case.inputs.items()]
        lines += ["    },", f"    labels={_array(case.labels)},"]
        if case.upstream != 1:
            lines.append(f"    upstream={float(case.upstream)!r},")
        if (case.upstreams != 1).any() or case.upstreams.shape != case.labels.shape:
            lines.append(f"    upstreams={_array(case.upstreams)},")
        if case.layout != "contiguous":
            lines.append(f"    layout={case.layout!r},")
        lines.append(")")
    shown = {key: repr(value) for key, value in options.items()}
    if isinstance(options.get("framework"), Framework):
        shown["framework"] = "framework"
        lines.append("framework = ...  # yours")
    arguments = [called, "loss", *(f"{key}={value}" for key, value in shown.items()), f"cases={chosen}"]
    lines += [f"loss = {described(loss)}", f"print(check({', '.join(arguments)}))"]
    if failure is not None:
        lines.append(f"# {failure.message}")
    return "\n".join(lines)


def _import_of(module: str, name: str, file: str | None) -> list[str]:
    """As it can be imported again: a file that the command line ran is found by its folder."""
    file = file or getattr(sys.modules.get(module), "__file__", None)
    if not module.startswith(FROM_FILE) or file is None:
        return [f"from {module} import {name}"]
    folder, stem = os.path.dirname(file), module.removeprefix(FROM_FILE)
    return ["import sys", f"sys.path.insert(0, {folder!r})", f"from {stem} import {name}"]


def _array(value: np.ndarray) -> str:
    value = np.asarray(value)
    with np.printoptions(floatmode="unique"):
        text = repr(value.tolist())
    text = text.replace("-inf", "-np.inf") if "inf" in text else text
    return f"np.array({text})" if value.size else f"np.zeros({value.shape})"

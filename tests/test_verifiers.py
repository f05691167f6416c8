"""The verifiers in other languages pass a right kernel, refuse ten wrong ones, and judge as the schema says."""

from __future__ import annotations

import subprocess

import numpy as np
import pytest
from helpers import need_program
from pages.markdown import ROOT

import refloss
from refloss.testing.vectors import write
from refloss.testing.vectors.judge import wrong
from refloss.testing.vectors.tensors import Tensor, from_safetensors, to_safetensors
from refloss.textbook.rows import row_norm

MISTAKES = ("zero_gradient", "sign", "sum_for_mean", "target_only", "upstream_ignored", "no_max", "label_off_by_one",
            "clamp", "float16_accumulation", "transposed")  # fmt: skip
HERE = ROOT / "tests" / "verifiers"
COMPILED = {  # language → compiler, its options
    "c": ("gcc", "-std=c99", "-O1", "-Wall", "-Wextra", "-pedantic", "-Werror", "-lm"),
    "cpp": ("g++", "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror"),
    "rs": ("rustc", "--edition=2021", "-Copt-level=1", "-Dwarnings")}  # fmt: skip
INTERPRETED = {"js": "node"}


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    write(str(folder), refloss.Softmax(), "float32")
    return folder / "softmax.float32.safetensors"


@pytest.fixture(scope="module", params=(*COMPILED, *INTERPRETED))
def program(request, tmp_path_factory):
    source = HERE / f"softmax.{request.param}"
    if request.param in INTERPRETED:
        return need_program(INTERPRETED[request.param]), source
    compiler, *options = COMPILED[request.param]
    built = tmp_path_factory.mktemp(request.param) / "softmax"
    subprocess.run([need_program(compiler), source, "-o", built, *options], check=True)
    return (built,)


def ran(program, *arguments):
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout


def test_a_right_kernel_passes(program, vectors):
    status, out = ran(program, vectors)
    assert status == 0, out


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_kernel_is_refused(program, vectors, mistake):
    status, out = ran(program, vectors, mistake)
    assert status == 1, out
    assert " is due: " in out.splitlines()[0]


def test_a_kernel_that_gives_nothing_does_not_pass(program, vectors):
    status, out = ran(program, vectors, "nothing")
    assert status == 1
    assert out.splitlines()[0].endswith(": no stage came back")


def test_outputs_are_files_that_the_oracle_reads(program, vectors, tmp_path):
    ran(program, vectors, "", tmp_path / "right.safetensors")
    ran(program, vectors, "sign", tmp_path / "wrong.safetensors")
    right, other = (tensors(tmp_path / f"{name}.safetensors")[0] for name in ("right", "wrong"))
    due, metadata = tensors(vectors)
    ids = metadata["ids"].split()
    assert right.keys() == other.keys()
    assert len({name.split("/")[0] for name in right}) == len(ids)
    for name in right:
        assert right[name].dtype == "float32"
        assert right[name].shape == due[name].shape
        flip = -1 if "/grad_" in name else 1
        np.testing.assert_array_equal(right[name].values, flip * other[name].values)
        assert not wrong(due[name].values, due[f"{name}/bound_C"].values, right[name].values).any()


# -- the rule, on vectors in which something else is due -------------------------------------------


def tensors(path):
    return from_safetensors(str(path), path.read_bytes())


def altered(got, along):
    """Case: (what is due in place of got, its bound, the cone or None, whether got is right)."""
    ones, rows = np.ones_like(got), np.ones((len(got), 1))
    across = np.roll(along, 1, axis=1)
    across -= np.sum(across * along, axis=1, keepdims=True) * along
    across /= row_norm(across)[:, None]
    last, one_nan = np.zeros_like(got), np.zeros_like(got)
    last[-1, -1], one_nan[1, 2] = 1, np.nan
    short, coarse = Tensor.of(got, "float16"), Tensor.of(got, "bfloat16")
    return {
        "entries_within": (got + 0.99, ones, None, True),
        "entries_beyond": (got + 1.01, ones, None, False),
        "last_entry_beyond": (got + 1.01 * last, ones, None, False),
        "nothing_is_due": (got + one_nan, np.inf * ones, None, True),
        "one_nan": (got + one_nan, ones, None, False),
        "one_nan_in_a_row": (got + one_nan, rows, None, False),
        "one_nan_off_the_cone": (got + one_nan, rows, 3 * along, False),
        "rows_within": (got + 0.99 * across, rows, None, True),
        "rows_beyond": (got + 1.01 * across, rows, None, False),
        "last_row_beyond": (got + 1.01 * last, rows, None, False),
        "no_row_is_due": (got + one_nan, np.inf * rows, None, True),
        "across_within": (got + 3.99 * across, rows, 3 * along, True),
        "across_beyond": (got + 4.01 * across, rows, 3 * along, False),
        "along_within": (got - 0.99 * along, rows, 3 * along, True),
        "along_beyond": (got - 1.01 * along, rows, 3 * along, False),
        "both_within": (got + 0.6 * along + 3.79 * across, rows, 3 * along, True),
        "both_beyond": (got + 0.6 * along + 3.81 * across, rows, 3 * along, False),
        "cone_in_other_rows": (got + 1.01 * across, rows, 3 * along * (np.arange(len(got)) > 0)[:, None], False),
        "float16": (short, np.abs(got - short.values), None, True),
        "float16_less": (short, np.abs(got - short.values) * (1 - 1e-6), None, False),
        "bfloat16": (coarse, np.abs(got - coarse.values), None, True),
        "bfloat16_less": (coarse, np.abs(got - coarse.values) * (1 - 1e-6), None, False),
        "subnormal_within": (got + 2.99 * 2**-24, Tensor.of(3 * 2**-24 * ones, "float16"), None, True),
        "subnormal_beyond": (got + 3.01 * 2**-24, Tensor.of(3 * 2**-24 * ones, "float16"), None, False),
        "infinite_float16": (got + 5, Tensor.of(np.inf * rows, "float16"), None, True),
    }


def test_entries_rows_and_cones_are_judged_by_the_rule(program, vectors, tmp_path):
    ran(program, vectors, "", tmp_path / "outputs.safetensors")
    outputs, (content, metadata) = tensors(tmp_path / "outputs.safetensors")[0], tensors(vectors)
    case = metadata["ids"].split()[0]
    got, x = (tensors[f"{case}/{name}"].values for tensors, name in ((outputs, "grad_x"), (content, "x")))
    made, lines = {}, []
    cases = altered(got, x / row_norm(x)[:, None])
    for name, (*parts, right) in cases.items():
        made |= {f"{name}/{key.partition('/')[2]}": tensor for key, tensor in content.items() if key.startswith(case)}
        due, bound, cone = (part if part is None or isinstance(part, Tensor) else Tensor.of(part) for part in parts)
        made |= {f"{name}/grad_x": due, f"{name}/grad_x/bound_C": bound}
        if cone is not None:
            made[f"{name}/grad_x/cone"] = cone
        units = wrong(due.values, bound.values, got, None if cone is None else cone.values)
        assert units.any() != right, name
        if not right:  # the first wrong entry; of a row the one that is off most
            unit = np.unravel_index(np.argmax(units), units.shape)
            if bound.shape != due.shape:
                unit = (unit[0], np.argmax(np.abs(got - due.values)[unit[0]]))
            lines.append(f"{name}: grad_x[{unit[0]}, {unit[1]}]")
    path = tmp_path / "altered.safetensors"
    path.write_bytes(to_safetensors(made, {**metadata, "ids": " ".join(cases)}))
    status, out = ran(program, path)
    assert status == 1
    assert [line.partition(" is ")[0] for line in out.splitlines()[:-1]] == lines
    assert f"{len(lines)} of {len(cases)} cases wrong" in out.splitlines()[-1]


def test_what_is_no_vectors_is_no_pass(program, vectors, tmp_path):
    path = tmp_path / "cut.safetensors"
    for size in (0, 7, 8, 1000, vectors.stat().st_size - 8):
        path.write_bytes(vectors.read_bytes()[:size])
        assert ran(program, path)[0] != 0
    assert ran(program, tmp_path / "none.safetensors")[0] != 0


def test_verifiers_are_short():
    found = list(HERE.glob("refloss_vectors.*"))
    assert len(found) == len(COMPILED) + len(INTERPRETED)
    for path in found:
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 200

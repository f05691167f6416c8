"""Vectors in a folder: written, and checked as if a stranger had written them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

import refloss
from refloss.testing.diagnosis.suspects import SUSPECTS
from refloss.testing.judging import units
from refloss.testing.judging.truth import computed_in
from refloss.testing.vectors import make
from refloss.testing.vectors.judge import wrong
from refloss.testing.vectors.make import Vector, Vectors
from refloss.testing.vectors.tensors import (
    Tensor,
    VectorsError,
    read_bytes,
    read_tensors,
    strict_object,
    to_npz,
    to_safetensors,
)
from refloss.writing import write_whole

SCHEMA = "refloss-vectors-1"
SCHEMA_FILE = os.path.join(os.path.dirname(__file__), "schema.json")
LARGEST = 16 * 2**20  # bytes of a file of vectors
LIKE = 2.0**-10  # a bound is a multiple of the largest of random draws: a thousandth of it means nothing


# -- writing ---------------------------------------------------------------------------------------


def stem_of(loss: Any, dtype: str) -> str:
    return f"{make.name_of(loss)}.{dtype}"


def write(
    folder: str, loss: Any, dtype: str = "float32", *, form: str = "safetensors", seed: int = 0, size: int = make.SIZE
) -> Vectors:
    """Writes both files of a loss in a dtype into the folder, which is made if it is not there.

    Ids that the folder has already are kept, in their order, and new ones come after them.

    Raises:
        VectorsError: what is there is no vectors of this loss with these parameters.
        ValueError, OSError: as `make_vectors`; what the system says.
    """
    stem = os.path.join(folder, stem_of(loss, dtype))
    keep: list[str] = []
    if os.path.exists(f"{stem}.json"):
        known = strict_object(f"{stem}.json", read_bytes(f"{stem}.json", LARGEST), "file")
        try:
            keep = [str(case["id"]) for case in known["cases"]]
            same = (known["loss"]["parameters"], known["seed"]) == (make.parameters_of(loss), seed)
        except (KeyError, TypeError) as error:
            raise VectorsError(f"{stem}.json", "is no description of vectors") from error
        if not same:
            raise VectorsError(f"{stem}.json", "holds vectors of other parameters or another seed: take another folder")
    made = make.make_vectors(loss, dtype, seed=seed, size=size, keep=keep)
    if not made.vectors:
        raise ValueError(f"no case of {loss!r} is small enough for a file")
    payload = to_npz(made.tensors()) if form == "npz" else to_safetensors(made.tensors(), metadata_of(made))
    described = description(made, f"{stem_of(loss, dtype)}.{form}", payload)
    os.makedirs(folder, exist_ok=True)
    write_whole(f"{stem}.{form}", payload)
    write_whole(f"{stem}.json", json.dumps(described, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    made.path = os.path.normpath(f"{stem}.json")
    return made


def metadata_of(made: Vectors) -> dict[str, str]:
    """What a verifier needs that reads the .safetensors file alone; words, as the format has them."""
    parameters = make.parameters_of(made.loss)
    return {
        "schema": SCHEMA,
        "loss": make.name_of(made.loss),
        "dtype": made.dtype,
        "grades": "".join(made.grades),
        "require": made.require,
        "ids": " ".join(vector.id for vector in made.vectors),
        **{f"parameter.{name}": json.dumps(value) for name, value in parameters.items()},
    }


def description(made: Vectors, file: str, payload: bytes) -> dict[str, Any]:
    """The JSON."""
    dead = {name for vector in made.vectors for name in vector.dies}
    return {
        "schema": SCHEMA,
        "loss": {"name": make.name_of(made.loss), "parameters": make.parameters_of(made.loss)},
        "dtype": made.dtype,
        "compute": computed_in(made.dtype),
        "seed": made.seed,
        "grades": made.grades,
        "require": made.require,
        "versions": {"refloss": refloss.__version__, "numpy": np.__version__},
        "payload": {"file": file, "bytes": len(payload), "sha256": hashlib.sha256(payload).hexdigest()},
        "left_out": made.left_out,
        "suspects": {
            name: {"group": suspect.group, "explanation": suspect.explanation, "seen_in": suspect.seen_in}
            for name, suspect in SUSPECTS.items()
            if name in dead
        },
        "survivors": made.survivors,
        "count": len(made.vectors),
        "cases": [_described(vector) for vector in made.vectors],
    }


def _described(vector: Vector) -> dict[str, Any]:
    stages = {}
    for stage, due in vector.truth.stages.items():
        judge = "row" if stage in units.ROWWISE else "entry"
        judge = "row_off_cone" if f"{stage}/cone" in vector.tensors else judge
        stages[stage] = {"shape": list(np.shape(due)), "judge": judge}
    inputs = make.inputs_of(vector.truth.loss, vector.case, vector.truth.dtype.name)
    return {
        "id": vector.id,
        "reason": vector.case.reason,
        "flags": list(vector.case.flags),
        "inputs": {name: list(tensor.shape) for name, tensor in inputs.items()},
        "stages": stages,
        "dies": vector.dies,
        "void": vector.void,
    }


# -- reading ---------------------------------------------------------------------------------------


def read_description(path: str) -> dict[str, Any]:
    """The JSON, if it is as the schema says, with every id once. Needs jsonschema."""
    import jsonschema

    if os.path.islink(path):
        raise VectorsError(path, "is a link")
    found = strict_object(path, read_bytes(path, LARGEST), "file")
    with open(SCHEMA_FILE, encoding="utf-8") as file:
        validator = jsonschema.Draft202012Validator(json.load(file))
    error = jsonschema.exceptions.best_match(validator.iter_errors(found))
    if error is not None:
        raise VectorsError(path, f"{_pointer(error.absolute_path)}: {' '.join(error.message.split())[:160]}")
    ids = [case["id"] for case in found["cases"]]
    if len(set(ids)) < len(ids):
        raise VectorsError(path, f"has the id {next(i for i in ids if ids.count(i) > 1)} twice")
    if not isinstance(found["seed"], int):
        raise VectorsError(path, f"seed: {found['seed']} is no whole number")
    if len(ids) != found["count"]:
        raise VectorsError(path, f"says count {found['count']} and has {len(ids)} cases")
    return found


def _pointer(parts: Any) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts).lstrip(".") or "the file"


def read(path: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(description, tensors by name) of the vectors that the JSON file describes, if the two fit each other.

    Raises:
        VectorsError: one line, which names the file and what is wrong with it.
    """
    return _read(path)[:2]


def _read(path: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, str]]:
    """With the payload's metadata, where its form has any."""
    found = read_description(path)
    payload = os.path.join(os.path.dirname(path), found["payload"]["file"])
    if os.path.islink(payload):
        raise VectorsError(payload, "is a link")
    content = read_bytes(payload, LARGEST)
    if len(content) != found["payload"]["bytes"]:
        raise VectorsError(payload, f"has {len(content)} bytes, {found['payload']['bytes']} are due")
    if hashlib.sha256(content).hexdigest() != found["payload"]["sha256"]:
        raise VectorsError(payload, "is not the file that was described: another sha256")
    tensors, metadata = read_tensors(payload, content, bits16="bfloat16")
    if metadata and metadata.get("ids", "").split() != [case["id"] for case in found["cases"]]:
        raise VectorsError(payload, "has other ids in its header than in the JSON")
    _same_tensors(payload, found, tensors)
    return found, tensors, metadata


def _same_tensors(payload: str, found: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Names, shapes, dtypes and finiteness are as described."""
    due: dict[str, tuple[str, list[tuple[int, ...]]]] = {}  # name → dtype, the shapes that it may have
    for case in found["cases"]:
        for name, shape in case["inputs"].items():
            due[f"{case['id']}/{name}"] = ("int64" if name == "labels" else found["dtype"], [tuple(shape)])
        for name, stage in case["stages"].items():
            shape, stem = tuple(stage["shape"]), f"{case['id']}/{name}"
            due[stem] = ("float64", [shape])
            bound = shape if stage["judge"] == "entry" else (*shape[:1], 1)
            due |= {f"{stem}/bound_{grade}": ("float64", [bound]) for grade in found["grades"]}
            if stage["judge"] == "row_off_cone":
                due[f"{stem}/cone"] = ("float64", [shape])
    for word, names in (("lacks", due.keys() - tensors.keys()), ("has a foreign", tensors.keys() - due.keys())):
        if names:
            raise VectorsError(payload, f"{word} tensor {min(names)}")
    for name, tensor in tensors.items():
        dtype, shapes = due[name]
        if tensor.dtype != dtype:
            raise VectorsError(payload, f"tensor {name} is {tensor.dtype}, {dtype} is due")
        if tensor.shape not in shapes:
            raise VectorsError(payload, f"tensor {name} has shape {tensor.shape}, {shapes[0]} is due")
        values = tensor.values
        if "/bound_" in name:
            if not (values >= 0).all():
                raise VectorsError(payload, f"tensor {name} holds a bound that is negative or NaN")
        elif not (np.isfinite(values) | (np.isneginf(values) & name.endswith("/logits"))).all():
            raise VectorsError(payload, f"tensor {name} holds NaN or inf")


# -- checking --------------------------------------------------------------------------------------


def check(path: str) -> dict[str, Any]:
    """Everything that the vectors claim, made again: ids, what is due, bounds, which bugs die where. The description.

    What is due may differ by what both may be off by, since last bits depend on NumPy's build.

    Raises:
        VectorsError: one line, which names the file and what is wrong with it.
    """
    found, tensors, metadata = _read(path)
    name, parameters, dtype = found["loss"]["name"], found["loss"]["parameters"], found["dtype"]
    if long := [key for key, value in parameters.items() if isinstance(value, list) and len(value) > make.MOST]:
        raise VectorsError(path, f"loss.parameters.{long[0]}: has more than {make.MOST} numbers")
    try:
        loss = make.loss_of(name, parameters)
    except (ValueError, TypeError) as error:
        raise VectorsError(path, f"loss: {error}") from error
    stem, (stated, _, form) = stem_of(loss, dtype), found["payload"]["file"].rpartition(".")
    if stated != stem or os.path.basename(path) != f"{stem}.json":
        raise VectorsError(path, f"must be called {stem}.json, and its payload {stem}.{form}")
    fit, left_out = make.fitting(loss, dtype, found["seed"])
    cases = {make.id_of(loss, case, dtype): case for case in fit}
    made = make.Vectors(loss, dtype, found["seed"], [], found["left_out"], [])
    for each in found["cases"]:
        if each["id"] not in cases:
            words = f"{each['id']} is no case of {loss!r} with seed {found['seed']} in this version, with these inputs"
            raise VectorsError(path, words)
        made.vectors.append(make.make_vector(loss, cases[each["id"]], dtype))
    made.survivors = make.living(loss, made.vectors)
    due = description(made, found["payload"]["file"], b"")
    due |= {key: found[key] for key in ("versions", "payload")}  # these may be others, and have been read by
    if difference := _difference(due, found):
        raise VectorsError(path, difference)
    left = sum(left_out.values()) + len(fit) - len(made.vectors)
    if left != sum(found["left_out"].values()):
        raise VectorsError(path, f"left_out: {left} cases are left out")
    payload = os.path.join(os.path.dirname(path), found["payload"]["file"])
    if form == "safetensors" and (difference := _difference(metadata_of(made), metadata)):
        raise VectorsError(payload, f"__metadata__.{difference}")
    for vector in made.vectors:
        stored = {key: tensors[f"{vector.id}/{key}"] for key in vector.tensors}
        _same_numbers(payload, vector, stored)
        for stage, truth in vector.truth.stages.items():
            across = stored[f"{stage}/cone"].values if f"{stage}/cone" in stored else None
            held = make.rounded(truth, vector.truth.dtype)
            if wrong(stored[stage].values, stored[f"{stage}/bound_A"].values, held, across).any():
                raise VectorsError(path, f"{vector.id}: the truth in {stage} would be refused at grade A")
    return found


def _difference(due: Any, found: Any, at: tuple = ()) -> str:
    """Where two descriptions first differ, '' if nowhere; the order of keys does not count."""
    if isinstance(due, dict) and isinstance(found, dict):
        for key in sorted(due.keys() | found.keys()):
            if key not in found or key not in due:
                return f"{_pointer((*at, key))}: {'is missing' if key in due else 'is not due'}"
            if difference := _difference(due[key], found[key], (*at, key)):
                return difference
        return ""
    if isinstance(due, list) and isinstance(found, list) and len(due) == len(found):
        parts = (_difference(mine, other, (*at, k)) for k, (mine, other) in enumerate(zip(due, found, strict=True)))
        return next(filter(None, parts), "")
    same = due == found and isinstance(due, bool) == isinstance(found, bool)
    return "" if same else f"{_pointer(at)}: {str(due)[:80]} is due, got {str(found)[:80]}"


def _same_numbers(payload: str, vector: Vector, tensors: Mapping[str, Tensor]) -> None:
    out, grads = vector.truth.out, vector.truth.loss.backward(vector.truth.out, vector.truth.upstream)
    own = {**out.error_bound, **grads.error_bound}
    for key, tensor in tensors.items():
        got, due = tensor.values, vector.tensors[key].values
        stage = key.partition("/")[0]
        if tensor.dtype != "float64" or key in ("labels", "upstream", *vector.case.inputs):
            same = (tensor.bits == vector.tensors[key].bits).all()
        elif "/" in key:
            with np.errstate(invalid="ignore"):
                same = ((got == due) | (np.abs(got - due) <= LIKE * np.abs(due))).all()
        else:
            with np.errstate(invalid="ignore"):
                same = ((got == due) | (np.abs(got - due) <= 2 * np.asarray(own[stage]))).all()
        if not same:
            raise VectorsError(payload, f"tensor {vector.id}/{key} is not what this case has")


def described_in(folder: str) -> list[str]:
    """The JSON files of the folder; VectorsError for a payload that none of them names."""
    try:
        names = sorted(os.listdir(folder))
    except OSError as error:
        raise VectorsError(folder, error.strerror or str(error)) from error
    stems = {name.removesuffix(".json") for name in names if name.endswith(".json")}
    for name in names:
        stem, _, form = name.rpartition(".")
        if form in ("safetensors", "npz") and stem not in stems:
            raise VectorsError(os.path.join(folder, name), f"{stem}.json is not there: nothing describes this file")
    return [os.path.join(folder, f"{stem}.json") for stem in sorted(stems)]

"""`refloss vectors`: what is written is right and always the same; what was changed is refused in one line."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
from helpers import need

import refloss
from refloss.cli.main import main
from refloss.testing.vectors import files, make_vectors, write
from refloss.testing.vectors.judge import wrong
from refloss.testing.vectors.tensors import Tensor, from_npz, from_safetensors, to_npz, to_safetensors

SMALL = 60_000  # bytes
STEM = "softmax.float32"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder with few vectors of Softmax."""
    folder = tmp_path_factory.mktemp("vectors")
    write(str(folder), refloss.Softmax(), "float32", size=SMALL)
    return folder


@pytest.fixture
def copy(good, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(good, folder)
    return folder


def run(capsys, *arguments):
    status = main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def test_what_is_written_is_right(capsys, good):
    need("jsonschema")
    status, out, err = run(capsys, "vectors", "--check", str(good))
    assert (status, err) == (0, "")
    assert f"{STEM}.json: right; " in out


def test_the_same_bytes_and_ids(copy):
    names = (f"{STEM}.json", f"{STEM}.safetensors")
    before = [(copy / name).read_bytes() for name in names]
    write(str(copy), refloss.Softmax(), "float32", size=SMALL)
    assert [(copy / name).read_bytes() for name in names] == before
    ids = [case["id"] for case in json.loads(before[0])["cases"]]
    more = write(str(copy), refloss.Softmax(), "float32", size=2 * SMALL)
    assert [vector.id for vector in more.vectors][: len(ids)] == ids
    assert len(more.vectors) > len(ids)
    with pytest.raises(ValueError, match="other parameters"):
        write(str(copy), refloss.Softmax(label_smoothing=0.1), "float32", size=SMALL)


def test_the_format_is_safetensors(good):
    content = (good / f"{STEM}.safetensors").read_bytes()
    theirs = need("safetensors.numpy").load(content)
    ours, _ = from_safetensors("f", content)
    assert theirs.keys() == ours.keys()
    assert all(np.array_equal(theirs[name], ours[name].values) for name in ours)


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
def test_tensors_come_back(dtype, rng):
    tensors = {"a/x": Tensor.of(rng.normal(size=(3, 2)), dtype), "a/labels": Tensor.of(np.arange(3), "int64"),
               "a/loss": Tensor.of(1.5)}  # fmt: skip
    back, metadata = from_safetensors("f", to_safetensors(tensors, {"k": "v"}))
    assert metadata == {"k": "v"}
    for found in (back, from_npz("f", to_npz(tensors), "bfloat16")):
        assert all(np.array_equal(found[name].bits, tensors[name].bits) for name in tensors)


@pytest.mark.parametrize("loss", [refloss.ArcFace(), refloss.CrossEntropy()], ids=["arcface", "cross_entropy"])
def test_what_the_checker_accepts_the_bounds_accept(loss, rng):
    """Errors around the edge of what the oracle allows; bounds grow with the grade."""
    for vector in make_vectors(loss, "bfloat16", size=SMALL).vectors:
        truth = vector.truth
        for stage, due in truth.stages.items():
            across = vector.tensors[f"{stage}/cone"].values if f"{stage}/cone" in vector.tensors else None
            bound = {grade: vector.tensors[f"{stage}/bound_{grade}"].values for grade in "ABCDE"}
            assert all((bound[a] <= bound[b]).all() for a, b in zip("ABCD", "BCDE", strict=True))
            for grade in "ACD":
                with np.errstate(all="ignore"):
                    noise = np.where(np.isfinite(bound[grade]), bound[grade], 1.0) * rng.normal(size=due.shape)
                    got = np.where(np.isfinite(due), due + noise, due)
                if truth.passes(stage, got, grade) and np.isfinite(got[np.isfinite(due)]).all():
                    assert not wrong(due, bound[grade], got, across).any(), (vector.id, stage, grade)
                assert wrong(due, bound[grade], due * np.nan, across)[~np.isinf(bound[grade])].all()


# -- damaged files ---------------------------------------------------------------------------------


def _header(change):
    """Changes the header of the .safetensors file, and signs it anew."""

    def damage(folder):
        path = folder / f"{STEM}.safetensors"
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        text = change(header, next(name for name in header if name.endswith("/x")))
        text = (json.dumps(header) if text is None else text).encode()
        _signed(folder, len(text).to_bytes(8, "little") + text + content[8 + length :])

    return damage


def _payload(change):
    return lambda folder: _signed(folder, change((folder / f"{STEM}.safetensors").read_bytes()))


def _signed(folder, content):
    (folder / f"{STEM}.safetensors").write_bytes(content)
    _json(lambda d: d["payload"].update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest()))(folder)


def _json(change):
    def damage(folder):
        path = folder / f"{STEM}.json"
        described = json.loads(path.read_text(encoding="utf-8"))
        text = change(described)
        path.write_text(text if isinstance(text, str) else json.dumps(described), encoding="utf-8")

    return damage


def _unsigned(folder):
    path = folder / f"{STEM}.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")


def _cut(folder):
    path = folder / f"{STEM}.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


DAMAGE = {
    "tampered": (_unsigned, "another sha256"),
    "truncated": (_cut, "bytes,"),
    "truncated_and_signed": (_payload(lambda c: c[:-100]), "cut off"),
    "bytes_beyond": (_payload(lambda c: c + b"0" * 8), "8 bytes beyond"),
    "header_of_10_to_15": (_payload(lambda c: (10**15).to_bytes(8, "little") + c[8:]), "claims a header of 1000"),
    "empty": (_payload(lambda c: b"\0"), "no .safetensors file"),
    "foreign": (_payload(lambda c: b"\x89PNG\r\n\x1a\n" + c), "claims a header"),
    "header_no_json": (_header(lambda h, x: "{" * 16), "is no JSON"),
    "header_deep": (_header(lambda h, x: "[" * 100_000), "is no JSON"),
    "header_a_list": (_header(lambda h, x: "[]"), "no JSON object"),
    "header_name_twice": (_header(lambda h, x: f'{{"{x}":{json.dumps(h[x])},"{x}":{json.dumps(h[x])}}}'), "twice"),
    "shape_of_10_to_15": (_header(lambda h, x: h[x].update(shape=[10**15, 8])), "are due"),
    "negative_shape": (_header(lambda h, x: h[x].update(shape=[-8, -8])), "not up to 8 whole numbers"),
    "float_shape": (_header(lambda h, x: h[x].update(shape=[1.5])), "not up to 8 whole numbers"),
    "unknown_dtype": (_header(lambda h, x: h[x].update(dtype="F8_E4M3")), "has dtype 'F8_E4M3'"),
    "wrong_dtype": (_header(lambda h, x: h[x].update(dtype="F16", shape=[2, *h[x]["shape"]])), "float32 is due"),
    "wrong_shape": (_header(lambda h, x: h[x].update(shape=[*h[x]["shape"][::-1], 1])), "has shape"),
    "overlapping": (
        _header(lambda h, x: h[x].update(data_offsets=[o - 4 for o in h[x]["data_offsets"]])), "overlaps with another"
    ),
    "hole": (_header(lambda h, x: h.pop(x) and None), "has a hole before it"),
    "extra_key": (_header(lambda h, x: h[x].update(more=1)), "nothing else"),
    "escaping_tensor": (_header(lambda h, x: h.update({"../../etc/passwd": h.pop(x)})), "is no name of a tensor"),
    "foreign_tensor": (_header(lambda h, x: h.update({"other-00000000/x": h.pop(x)})), "lacks tensor"),
    "other_metadata": (_header(lambda h, x: h["__metadata__"].update(ids="a b")), "other ids"),
    "metadata_no_strings": (_header(lambda h, x: h["__metadata__"].update(ids=1)), "strings to strings"),
    "escaping_payload": (_json(lambda d: d["payload"].update(file="../x.safetensors")), "payload.file"),
    "other_schema": (_json(lambda d: d.update(schema="refloss-vectors-9")), "schema"),
    "unknown_field": (_json(lambda d: d.update(more=1)), "'more' was unexpected"),
    "missing_field": (_json(lambda d: d["cases"][0].pop("reason") and None), "cases[0]"),
    "duplicated_id": (
        _json(lambda d: d.update(cases=[*d["cases"], d["cases"][0]], count=d["count"] + 1)), "twice"
    ),
    "wrong_count": (_json(lambda d: d.update(count=d["count"] + 1)), "says count"),
    "key_twice": (_json(lambda d: '{"schema": 1, "schema": 2}'), "'schema' twice"),
    "nan": (_json(lambda d: '{"schema": NaN}'), "NaN, which is no JSON"),
    "foreign_json": (_json(lambda d: '{"name": "x"}'), "the file: "),
    "no_such_loss": (_json(lambda d: d["loss"].update(name="mse")), "loss: "),
    "no_such_parameter": (_json(lambda d: d["loss"]["parameters"].update(gamma=1)), "loss: "),
    "other_smoothing": (_json(lambda d: d["loss"]["parameters"].update(label_smoothing=0.25)), ": "),
    "suspect_that_lives": (
        _json(lambda d: d["cases"][0]["dies"].update(stale_gradient_buffer="loss")), "stale_gradient_buffer: is not due"
    ),
    "suspect_unknown": (_json(lambda d: d["cases"][0]["dies"].update(no_such="loss")), "dies.no_such: is not due"),
    "other_reason": (_json(lambda d: d["cases"][0].update(reason="so")), "cases[0].reason"),
    "death_withheld": (_json(lambda d: d["cases"][0]["dies"].popitem() and None), "is missing"),
    "void_invented": (_json(lambda d: d["cases"][0]["void"].update(grad_x=["zero"])), "cases[0].void"),
    "other_compute": (_json(lambda d: d.update(compute="float64")), "compute: float32 is due"),
    "other_require": (_json(lambda d: d.update(require="D")), "require: C is due"),
    "other_seed": (_json(lambda d: d.update(seed=7)), "with seed 7"),
    "seed_no_integer": (_json(lambda d: d.update(seed=0.0)), "seed: 0.0 is no whole number"),
    "survivor_withheld": (_json(lambda d: d["survivors"].pop() and None), "survivors"),
    "left_out": (_json(lambda d: d["left_out"].update(room=0)), "left_out"),
    "explained_otherwise": (_json(lambda d: next(iter(d["suspects"].values())).update(explanation="x")), "explanation"),
    "parameter_missing": (
        _json(lambda d: d["loss"]["parameters"].pop("label_smoothing") and None), "loss.parameters.label_smoothing"
    ),
    "parameter_of_millions": (
        _json(lambda d: d["loss"]["parameters"].update(class_weights=[1.0] * 10**6)), "more than 700 numbers"
    ),
    "metadata_of_another_loss": (_header(lambda h, x: h["__metadata__"].update(loss="arcface")), "__metadata__.loss"),
    "metadata_gone": (_header(lambda h, x: h.pop("__metadata__") and None), "__metadata__"),
    "shape_too_large_times_0": (
        _header(lambda h, x: h.update({x[:-1] + "b": {"dtype": "F32", "shape": [2**62, 0], "data_offsets": [0, 0]}})),
        "no array's",
    ),
    "called_otherwise": (
        lambda folder: (folder / f"{STEM}.json").rename(folder / "other.json"), "nothing describes this file"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_refused_by_name(capsys, copy, kind):
    need("jsonschema")
    damage, words = DAMAGE[kind]
    damage(copy)
    status, out, err = run(capsys, "vectors", "--check", str(copy))
    assert (status, out) == (2, ""), (out, err)
    assert err.count("\n") == 1
    assert err.startswith(f"refloss: {copy}/{STEM}."), err
    assert words in err


def test_numbers_changed_and_signed_anew_are_refused(capsys, copy):
    """Expected values, bounds and inputs are made again."""
    need("jsonschema")
    content = (copy / f"{STEM}.safetensors").read_bytes()
    tensors, metadata = from_safetensors("f", content)
    for end, word in (("/x", "/x"), ("/grad_x", "/grad_x"), ("/grad_W/bound_C", "bound_C")):
        name = next(name for name in tensors if name.endswith(end))
        changed = Tensor.of(tensors[name].values * 1.25 + 1, tensors[name].dtype)
        _signed(copy, to_safetensors({**tensors, name: changed}, metadata))
        status, _, err = run(capsys, "vectors", "--check", str(copy))
        assert status == 2
        assert word in err
        assert "is not what this case has" in err


def test_the_schema_is_one(good):
    jsonschema = need("jsonschema")
    with open(files.SCHEMA_FILE, encoding="utf-8") as file:
        schema = json.load(file)
    jsonschema.Draft202012Validator.check_schema(schema)
    described = json.loads((good / f"{STEM}.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    assert validator.is_valid(described)
    for key in described:  # every field is required
        assert not validator.is_valid({name: value for name, value in described.items() if name != key})
        assert not validator.is_valid({**described, key: {"no": "such"}})


def test_a_stray_payload_and_an_empty_folder(capsys, copy, tmp_path):
    (copy / "other.npz").write_bytes(b"")
    status, _, err = run(capsys, "vectors", "--check", str(copy))
    assert (status, "nothing describes this file" in err) == (2, True)
    (tmp_path / "empty").mkdir()
    assert run(capsys, "vectors", "--check", str(tmp_path / "empty"))[0] == 5


# -- outputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("form", "dtype"), [("safetensors", "float32"), ("npz", "bfloat16")])
def test_outputs_are_judged(capsys, tmp_path, form, dtype):
    loss = refloss.ArcFace()
    due = {
        f"{v.id}/{s}": v.truth.stages[s]
        for v in make_vectors(loss, dtype).vectors
        for s in ("loss", "grad_x", "grad_W")
    }
    for sign, status in ((1, 0), (-1, 1)):
        made = {n: Tensor.of(v * (sign if "grad" in n else 1), dtype) for n, v in due.items()}
        path = tmp_path / f"outputs.{form}"
        path.write_bytes(to_npz(made) if form == "npz" else to_safetensors(made, {}))
        found, out, err = run(capsys, "check", "--outputs", str(path), "--loss", "arcface", "--dtype", dtype)
        assert (found, err) == (status, ""), out
    assert "gradient_of_wrong_sign" in out


def test_outputs_of_no_case_are_refused(capsys, tmp_path):
    path = tmp_path / "outputs.safetensors"
    path.write_bytes(to_safetensors({"other-00000000/loss": Tensor.of(1.0)}, {}))
    status, _, err = run(capsys, "check", "--outputs", str(path), "--loss", "arcface")
    assert (status, "other-00000000 is no case of" in err, str(path) in err) == (2, True, True)
    assert run(capsys, "check", "k.py:f", "--outputs", str(path), "--loss", "arcface")[0] == 2

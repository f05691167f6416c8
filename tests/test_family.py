"""The family as data: every loss has all its parts, and what the textbook's side says of it is what the passes do."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from helpers import example, make, need

import refloss
from refloss.losses import LOSSES
from refloss.textbook.family import FAMILY, Domain, branches_of, member_of, radius_of

ROOT = Path(__file__).resolve().parents[1]
NAMES = refloss.losses()


def lacking(name: str) -> str:
    """The file in which a part of this loss is missing, and what part; '' if it is whole."""
    files = {f"refloss/losses/{name}.py": "the passes", f"derivations/{name}.md": "the derivation"}
    for file, part in files.items():
        if not (ROOT / file).exists():
            return f"{file}: {part}"
    if name not in FAMILY:
        return f"refloss/textbook/family.py: its entry in FAMILY, {name!r}"
    if name not in LOSSES or not hasattr(refloss, LOSSES[name].__name__):
        return "refloss/losses/__init__.py: the class in LOSSES and in __all__"
    texts = {
        "README.md": f"| `{name}` |",
        "derivations/README.md": f"({name}.md)",
        "docs/api/losses.md": f"(losses/{name}.md)",
        f"docs/api/losses/{name}.md": f"autoclass:: refloss.{LOSSES[name].__name__}",
    }
    for file, text in texts.items():
        if not (ROOT / file).exists() or text not in (ROOT / file).read_text(encoding="utf-8"):
            return f"{file}: a line with {text!r}"
    return ""


def every_name() -> list[str]:
    """Of everything that could be a loss: a file of passes, an entry, a page about passes."""
    found = {path.stem for path in (ROOT / "refloss/losses").glob("*.py") if "forward_logits(self" in path.read_text()}
    found = {name for name in found if "name: ClassVar[str] =" in (ROOT / f"refloss/losses/{name}.py").read_text()}
    return sorted((found | set(FAMILY) | set(LOSSES)) - {"margin_softmax"})


@pytest.mark.parametrize("name", every_name())
def test_a_loss_has_all_its_parts(name):
    """The page "To add a loss" in docs/architecture.md, as a list."""
    assert not lacking(name)


@pytest.mark.parametrize("name", [*NAMES, "margin_softmax-scale", "margin_softmax-x_norm", "margin_softmax-both_norms"])
def test_the_radius_is_how_the_logits_grow(name, rng):
    """Twice the length of x, or of W, multiplies the logits of other classes by 2^p, by 2^q."""
    loss, inputs = make(name), example(name, rng)
    x, W = inputs["x"], inputs["W"]
    radius = radius_of(loss)
    plain = loss.inference_logits(x, W)
    np.testing.assert_array_equal(loss.inference_logits(2 * x, W), 2.0**radius.p * plain)
    np.testing.assert_array_equal(loss.inference_logits(x, 2 * W), 2.0**radius.q * plain)
    assert (loss.feels_x_norm, loss.feels_W_norm) == (bool(radius.p), bool(radius.q))
    for factor in {"scale", "alpha"} & set(member_of(loss).parameters) if not name.startswith("margin") else ():
        assert radius.factor == getattr(loss, factor)
    cos = (x / np.linalg.norm(x, axis=1)[:, None]) @ (W / np.linalg.norm(W, axis=1)[:, None]).T
    due = radius.of(np.linalg.norm(x, axis=1), np.linalg.norm(W, axis=1))
    np.testing.assert_allclose(plain, due * cos, rtol=0, atol=1e-14 * np.max(due))  # a few roundings of the radius


def ends(domain: Domain) -> list[tuple[float, bool]]:
    """(value, whether it may be taken), at both ends of a domain and one step beyond."""
    step = 1 if domain.whole else math.ulp(max(domain.low, 1.0))
    found = [(domain.low, not domain.open_low), (domain.low - step, False)]
    if math.isfinite(domain.high):
        found += [(domain.high, not domain.open_high), (domain.high + 4 * math.ulp(domain.high), False)]
    return found


@pytest.mark.parametrize(
    ("name", "parameter"),
    [(name, p) for name in FAMILY for p in FAMILY[name].parameters if name in NAMES],
    ids="-".join,
)
def test_a_domain_is_what_the_loss_accepts(name, parameter):
    """Its ends, and one step beyond."""
    for value, legal in ends(FAMILY[name].parameters[parameter]):
        if legal:
            assert getattr(make(name, **{parameter: value}), parameter) == value
        else:
            with pytest.raises(ValueError, match=parameter):
                make(name, **{parameter: value})


@pytest.mark.parametrize("side", ["x", "W"])
@pytest.mark.parametrize("name", NAMES)
def test_zero_rows_are_refused_where_they_are_singular(name, side, rng):
    """ "every": any row; "target": x_i and W_y alone; else none."""
    loss, inputs = make(name), example(name, rng, n=3)
    spare = 3  # a class that is no sample's label
    singular = FAMILY[name].zero_rows.get(side)
    for row, refused in ((0, singular is not None), (spare, singular == "every")):
        if side == "x" and row == spare:
            continue
        zeroed = {k: v.copy() for k, v in inputs.items()}
        zeroed[side][row] = 0.0
        if refused:
            with pytest.raises(ValueError, match=f"{side}.* zero"):
                loss.forward(**zeroed)
        else:
            loss.forward(**zeroed)


@pytest.mark.parametrize("name", [name for name in NAMES if name in FAMILY and FAMILY[name].target is not None])
def test_branches_follow_each_other(name):
    """Their numbers rise with θ, one after the other, and the value has no other kind of piece."""
    loss = make(name)
    branches = branches_of(loss)
    which = branches.which(np.linspace(0.0, np.pi, 4001))
    assert (np.diff(which) >= 0).all()
    assert set(which) == set(range(max(len(branches.names), 1)))


def test_a_loss_without_an_entry_is_an_error_that_names_the_file(monkeypatch):
    """gradcheck, check and certify of a registered loss that the textbook's side does not know."""

    need("flint")

    class Forgotten(refloss.WNormSoftmax):
        name = "forgotten"

        def forward_logits(self, *given):
            return super().forward_logits(*given)

    monkeypatch.setitem(LOSSES, "forgotten", Forgotten)
    x, W, labels = np.eye(3), np.eye(3), [0, 1, 2]
    for ask in (
        lambda: refloss.testing.check(lambda x, W, labels: 0.0, Forgotten()),
        lambda: refloss.gradcheck(Forgotten(), x, W, labels),
        lambda: refloss.certify(Forgotten(), x, W, labels),
    ):
        with pytest.raises(TypeError, match=r"Forgotten has no entry in FAMILY of refloss/textbook/family\.py"):
            ask()

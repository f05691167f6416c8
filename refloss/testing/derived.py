"""Where each stage is derived: the page and its numbered steps."""

from __future__ import annotations

from typing import Any

from refloss.losses import CrossEntropy

_ANGLES = {"x_norm": "(1)", "W_norm": "(1)", "cos_theta": "(2)", "theta": "(3)", "logits": "(4), (5)"}
_SCALED = _ANGLES | {"grad_x": "(7) to (9)", "grad_W": "(7) to (9)", "grad_scale": "(10)"}
_LINEAR = {"logits": "(1)", "grad_x": "(3)", "grad_W": "(4)", "grad_b": "(5)"}
STEPS = {
    "softmax": _LINEAR,
    "weighted_softmax": _LINEAR,
    "w_norm_softmax": {"W_norm": "(1)", "logits": "(2)", "grad_x": "(4)", "grad_W": "(5), (6)"},
    "l_softmax": _ANGLES | {"grad_x": "(7) to (10)", "grad_W": "(7) to (10)"},
    "a_softmax": _ANGLES | {"grad_x": "(7), (9) to (11)", "grad_W": "(7) to (9), (11)"},
    "f_norm_sphereface": _SCALED,
    "l2_softmax": {
        "x_norm": "(1)", "logits": "(2)", "grad_x": "(4), (7)", "grad_W": "(5)", "grad_b": "(6)", "grad_alpha": "(8)",
    },
    "am_softmax": _SCALED | {"grad_margin": "(11)"},
    "arcface": _SCALED | {"grad_margin": "(11)"},
    "margin_softmax": {
        "x_norm": "(G1)", "W_norm": "(G1)", "cos_theta": "(G2)", "theta": "(G3)", "logits": "(G4), (G5)",
        "grad_x": "(G7) to (G10)", "grad_W": "(G7) to (G10)", "grad_scale": "(G10)",
    },
}  # fmt: skip
_SHARED = {
    "x_norm": ("normalisation.md", "(N2)"),
    "W_norm": ("normalisation.md", "(N2)"),
    "cos_theta": ("angle.md", "(A1)"),
    "probabilities": ("cross_entropy.md", "(C2) to (C4)"),
    "losses": ("cross_entropy.md", "(C5)"),
    "loss": ("cross_entropy.md", "(C6), (C7)"),
    "grad_logits": ("cross_entropy.md", "(C8), (C9)"),
}


def derived_at(loss: Any, stage: str) -> str:
    """'arcface.md (5)': the page of derivations/ and the step that gives this stage; '' where none is its own."""
    own = {} if isinstance(loss, CrossEntropy) else STEPS.get(loss.name, {})
    if stage in own:
        return f"{loss.name}.md {own[stage]}"
    return " ".join(_SHARED.get(stage, ()))

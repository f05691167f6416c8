"""Wrong implementations, a few lines each: mistakes that people made, or would make, in a loss of the family.

They serve twice. A test of a kernel that lets one of them pass is too weak; and where an unknown kernel fails, the
suspect that gives the same numbers names the mistake. Each changes a `PlainLoss` before it runs, and has the gradient
of its own wrong forward, as automatic differentiation would, unless the mistake is in the backward alone. Kernels that
run over blocks or shards of the classes have backwards of their own: p = exp(z − lse), with whatever lse they hold.

Each group is a module. `registry` says what a suspect is, `conditions` in which losses it can be, and `changes` has
what the groups share.
"""

from importlib import import_module

from refloss.testing.diagnosis.suspects.registry import SLIP, SUSPECTS, Suspect, suspects, wrong

# in the order in which they are registered
GROUPS = (
    "margin", "scale", "norms", "gradient", "reduction", "upstream",
    "blocks", "options", "softmax", "precision", "state",
)  # fmt: skip
for group in GROUPS:
    import_module(f"{__name__}.{group}")

__all__ = ["GROUPS", "SLIP", "SUSPECTS", "Suspect", "suspects", "wrong"]

"""What the wrong rows, entries or cases have in common that the right ones lack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import lgamma, log

import numpy as np

MOST = 0.6  # where more than these are wrong, what the others have in common is that nothing was due
DUE = "|what is due|"
CHANCE = 1e-3  # of finding a property that parts so few wrong from the right ones, if it were drawn by chance


@dataclass
class Common:
    """words: "‖x‖ < 0.01" or "a label that another row has too". exact: none of the right ones has it."""

    words: str
    exact: bool
    wrong: int
    right: int
    right_with: int


def common(features: Mapping[str, np.ndarray], wrong: np.ndarray, most_wrong: float = MOST) -> Common | None:
    """The property, or the threshold of a number, that all wrong ones have and fewest right ones."""
    bad, n = int(np.count_nonzero(wrong)), wrong.size
    if not bad or bad > n * most_wrong:
        return None
    by_chance = (lgamma(n + 1) - lgamma(bad + 1) - lgamma(n - bad + 1)) - log(2 * len(features))
    if by_chance < -log(CHANCE):
        return None
    found: list[tuple[float, Common]] = []
    for place, (name, value) in enumerate(features.items()):
        for words, has in _properties(name, value, wrong):
            if not has[wrong].all():
                continue
            others = int(np.count_nonzero(has & ~wrong))
            # a threshold beyond which many right ones lie says little
            most = 0.3 if value.dtype == bool else 0.05
            if others <= most * (n - bad) and _by_chance(n, bad, others) < CHANCE / (2 * len(features)):
                # a property with a name rather than a threshold
                dear = others / (n - bad) + (0.0 if value.dtype == bool else 0.01) + 1e-6 * place
                found.append((dear, Common(words, not others, bad, n - bad, others)))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _by_chance(n: int, bad: int, others: int) -> float:
    """That all wrong ones lie among bad + others chosen of n."""
    k = bad + others
    ways = lgamma(k + 1) - lgamma(others + 1) - (lgamma(n + 1) - lgamma(n - bad + 1))
    return float(np.exp(min(ways, 0.0)))


def _properties(name: str, value: np.ndarray, wrong: np.ndarray) -> Sequence[tuple[str, np.ndarray]]:
    if value.dtype == bool:
        return [(name, value)]
    with np.errstate(invalid="ignore"):
        low, high = np.min(value[wrong]), np.max(value[wrong])
        if not (np.isfinite(low) and np.isfinite(high)):
            return []
        made = [(f"{name} = {low:.4g}", value == low)] if low == high else []
        if name != DUE:  # of any error the largest lie where most is due
            made.append((f"{name} ≥ {low:.4g}", value >= low))
        made.append((f"{name} ≤ {high:.4g}", value <= high))
    return made


def pooled(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The features that all parts have, one after the other."""
    names = [name for name in parts[0] if all(name in part for part in parts)] if parts else []
    return {name: np.concatenate([np.ravel(part[name]) for part in parts]) for name in names}

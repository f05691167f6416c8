"""Cases about how the arrays are handed out: padded rows, channels last, one number for all, nothing to differentiate.

Their numbers are ordinary; what is read of them is not.
"""

from __future__ import annotations

import math

import numpy as np

from refloss.cases.maker import Maker


def layouts(make: Maker) -> None:
    """The cases about memory and about what arrives, after those of the other modules."""
    _padded(make)
    _arriving(make)
    if make.bare:
        _images(make)
    else:
        _frozen(make)


def _padded(make: Maker) -> None:
    inputs, y = make.middling("layout_padded", 7)
    reason = "rows cut out of a wider array: stride(-1) is 1 and stride(0) is not the width"
    make.case("layout_padded", reason, "padded", inputs, y, layout="padded")


def _arriving(make: Maker) -> None:
    inputs, y = make.middling("upstream_expanded", 9)
    reason = "the gradient of a sum: one number with stride 0, read past its end as if it had stride 1"
    make.case("upstream_expanded", reason, "upstream_expanded", inputs, y, upstreams=(1.75,),
              layout="upstream_expanded")  # fmt: skip
    inputs, y = make.middling("upstream_masked", 12)
    mask = np.arange(12) % 4 == 1
    reason = "only some samples' losses are used, not the first: 0 arrives at the others, as after losses[mask]"
    make.case("upstream_masked", reason, "upstream_masked", inputs, y, upstreams=np.where(mask, 1.0, 0.0))


def _images(make: Maker) -> None:
    """Images of several pixels in both directions, which the layouts of rows are not."""
    rest = (2, 3, 5)
    ways = [
        ("strided", "every other column of wider images"),
        ("transposed", "the last two axes swapped in memory"),
        ("padded", "images cut out of wider ones"),
    ]
    if make.loss.axis == 1:
        ways.append(("channels_last", "the classes of a pixel lie side by side in memory, though their axis is 1"))
    for layout, reason in ways:
        name = f"image_{layout}"
        make.case(name, reason, f"image {layout}", *make.plain(name, math.prod(rest), 5), rest=rest, layout=layout)


def _frozen(make: Maker) -> None:
    for name, words in (("x", "a classifier trained on features that stay"), ("W", "weights that stay")):
        inputs, y = make.middling(f"frozen_{name}", 7)
        reason = f"{words}: no gradient is wanted of {name}, the others' are as ever"
        make.case(f"frozen_{name}", reason, "frozen", inputs, y, layout=f"frozen_{name}")

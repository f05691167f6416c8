"""A kernel that writes files: what it gave on the vectors' inputs, judged by the checker that judges functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from refloss.cases.case import Case
from refloss.cases.oracle import cases as all_cases
from refloss.precision.dtypes import DTYPES
from refloss.record import STAGES
from refloss.testing.adapters import Adapter, Outcome, Takes
from refloss.testing.check import Checker
from refloss.testing.judging.truth import Truth
from refloss.testing.judging.verdict import shape_of
from refloss.testing.report import CaseResult
from refloss.testing.vectors.make import id_of
from refloss.testing.vectors.tensors import Tensor, VectorsError, read_bytes, read_tensors
from refloss.validation import one_of


class FromFile(Adapter):
    """Looks up what came back instead of calling anything."""

    def __init__(self, dtype: str, outputs: Mapping[str, Mapping[str, Tensor]]) -> None:
        super().__init__("numpy", "float64", None)
        self.dtype, self.outputs = dtype, outputs

    def signature(self, *_: Any, **__: Any) -> Takes:
        return Takes(b=True, upstream=True, out=False)

    def call(self, kernel: Any, case: Case, takes: Takes, **_: Any) -> Outcome:
        found = Outcome()
        for stage, tensor in self.outputs[case.name].items():
            found.stages[stage] = np.array(tensor.values, dtype=np.float64)
            found.dtypes[stage], found.bits[stage] = tensor.dtype, tensor.data()
        found.reduced = next((stage for stage in ("loss", "losses") if stage in found.stages), None)
        return found.ordered()


class OutputsChecker(Checker):
    """The check of a file of outputs: tensors id/stage of some or all cases of the vectors of a loss and dtype.

    Raises:
        VectorsError: one line that names the file: not read here, an id or stage that there is not.
    """

    def __init__(
        self, path: str, loss: Any, *, dtype: str = "float32", require: Any = None, compute: str | None = None,
        slack: float = 1.0, seed: int = 0,
    ) -> None:  # fmt: skip
        one_of(dtype, "dtype", tuple(DTYPES))
        tensors, _ = read_tensors(path, read_bytes(path), bits16="bfloat16" if dtype == "bfloat16" else "float16")
        if not tensors:
            raise VectorsError(path, "holds no outputs")
        by_id = {id_of(loss, case, dtype): case for case in all_cases(loss, dtype, seed)}
        outputs: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            each, _, stage = name.partition("/")
            if each not in by_id:
                raise VectorsError(path, f"{each} is no case of {loss!r} in {dtype} and seed {seed}; of others?")
            if stage not in STAGES:
                raise VectorsError(path, f"{name}: no stage is called {stage}")
            outputs.setdefault(by_id[each].name, {})[stage] = tensor
        super().__init__(
            None, loss, dtype=dtype, framework="numpy", cases=[c for c in by_id.values() if c.name in outputs],
            require=require, compute=compute, device=None, slack=slack, seed=seed, soft_targets=False,
            adapter=FromFile(dtype, outputs),
        )  # fmt: skip

    def judged(self, case: Case) -> CaseResult:
        """What is in a file is there for whole cases: none can be made smaller."""
        if any(case is known for known in self.cases):
            return super().judged(case)
        return CaseResult(case.name, case.reason, case.flags, shape_of(case))

    def _again(self, case: Case, outcome: Outcome, truth: Truth, result: CaseResult) -> None:
        """Nothing is called a second time."""

    def _offset(self, case: Case, result: CaseResult) -> None:
        """Nor with other logits."""

    def _along(self, case: Case, outcome: Outcome, truth: Truth, result: CaseResult) -> None:
        """Nor differentiated."""

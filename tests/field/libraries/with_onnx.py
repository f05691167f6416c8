"""ONNX: the node data of SoftmaxCrossEntropyLoss and NegativeLogLikelihoodLoss, in the wheel up to 1.16."""

from __future__ import annotations

import numpy as np
from asked import Check, Facts, Lazy

REQUIRES = ("onnx==1.16.2",)
onnx = Lazy("onnx")
facts = Facts()
CHECKS: list[Check] = []


def compared(kind: str, op: str) -> tuple[bool, str]:
    """Every case of an operator against `refloss.CrossEntropy` in float64: (do all agree, how far off, how many)."""
    import importlib
    from pathlib import Path

    import refloss

    numpy_helper = importlib.import_module("onnx.numpy_helper")
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "node"
    largest, count = 0.0, 0
    for case in sorted(folder.glob(f"test_{kind}_*")):
        model = onnx.load(case / "model.onnx")
        [node] = model.graph.node if len(model.graph.node) == 1 else [None]
        if node is None or node.op_type != op:
            continue  # the same again, expanded into other operators
        arrays = []
        for path in [*sorted(case.glob("test_data_set_0/input_*.pb")), case / "test_data_set_0" / "output_0.pb"]:
            tensor = onnx.TensorProto()
            tensor.ParseFromString(path.read_bytes())
            arrays.append(numpy_helper.to_array(tensor))
        scores, labels, *weights, want = arrays
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        reduction = given.get("reduction", b"mean").decode()
        if weights and reduction == "mean":
            reduction = "weighted_mean"
        loss = refloss.CrossEntropy(
            axis=1, reduction=reduction, ignore_index=given.get("ignore_index"),
            class_weights=weights[0] if weights else None,
        )  # fmt: skip
        if kind == "nllloss":  # of log p; random input is not normalised, and −x_y is what is asked
            lse = np.log(np.exp(scores.astype(float)).sum(axis=1))
            w = np.ones(scores.shape[1]) if not weights else weights[0].astype(float)
            valid = labels != given.get("ignore_index")
            at = np.where(valid, labels, 0)
            share = np.where(valid, w[at], 0.0)
            out = loss.forward(scores, labels)
            got = out.losses - np.where(valid, share * lse, 0.0)
            got = got.sum() / share.sum() if "mean" in reduction else got.sum() if reduction == "sum" else got
        else:
            got = loss.forward(scores, labels).loss
        largest = max(largest, float(np.max(np.abs(np.asarray(got) - want) / np.maximum(np.abs(want), 1.0))))
        count += 1
    return largest < 5e-7, f"{count} cases, largest difference {largest:.0e}"


@facts("`test_sce_*` agrees with `CrossEntropy`", "numbers")
def softmax_cross_entropy() -> tuple[bool, str]:
    return compared("sce", "SoftmaxCrossEntropyLoss")


@facts("`test_nllloss_*` agrees with `CrossEntropy` less log Σ e^x", "numbers")
def negative_log_likelihood() -> tuple[bool, str]:
    return compared("nllloss", "NegativeLogLikelihoodLoss")


@facts("the reference implementation takes the log of p, and is inf where p underflows")
def log_of_p() -> tuple[bool, str]:
    import importlib

    make = importlib.import_module("onnx.helper")
    kinds = onnx.TensorProto
    node = make.make_node("SoftmaxCrossEntropyLoss", ["x", "y"], ["z"])
    graph = make.make_graph(
        [node], "g",
        [make.make_tensor_value_info("x", kinds.FLOAT, [1, 2]), make.make_tensor_value_info("y", kinds.INT64, [1])],
        [make.make_tensor_value_info("z", kinds.FLOAT, [])],
    )  # fmt: skip
    run = importlib.import_module("onnx.reference").ReferenceEvaluator(make.make_model(graph))
    [got] = run.run(None, {"x": np.array([[0.0, 110.0]], np.float32), "y": np.array([0])})
    return bool(np.isinf(got)), f"{float(got)} for logits (0, 110), target 0, float32; 110 is due"

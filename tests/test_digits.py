"""The main job on real input: scikit-learn's handwritten digits.

Once through a fixed random projection, as a linear head on frozen features would see them; once through a 2-D
feature map trained with refloss' own gradients, where most samples end up confident.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import refloss

CLASSES = 10
WEIGHTS = tuple(np.linspace(0.5, 1.5, CLASSES))
# small margins, since ten classes on a circle stand 36 degrees apart; a small s for AM-Softmax, which from a random
# start is caught at 34 % accuracy by s ≥ 8
FOR_2D = {
    "l_softmax": {"margin": 2, "annealing": 1.0},
    "a_softmax": {"margin": 2, "annealing": 1.0},
    "f_norm_sphereface": {"scale": 12, "margin": 2, "annealing": 1.0},
    "am_softmax": {"scale": 6, "margin": 0.05},
    "arcface": {"scale": 12, "margin": 0.1},
}


@cache
def digits():
    """(1797, 64) pixels in [0, 1] without their mean, and the labels."""
    from sklearn.datasets import load_digits  # a second to import

    data = load_digits()
    pixels = data.data / 16
    return pixels - pixels.mean(axis=0), data.target


def make(name, **parameters):
    if name == "weighted_softmax":
        parameters["class_weights"] = WEIGHTS
    return refloss.get(name, **parameters)


@pytest.mark.parametrize("name", refloss.losses())
def test_random_projection(name):
    """Every gradient of every loss on 300 digits, projected to 16 dimensions, is confirmed."""
    pixels, labels = digits()
    rng = np.random.default_rng(16)
    x = (pixels @ rng.normal(size=(64, 16)))[:300]
    W = rng.normal(size=(CLASSES, 16))
    b = rng.normal(size=CLASSES) if name in ("softmax", "weighted_softmax", "l2_softmax") else None
    report = refloss.gradcheck(make(name), x, W, labels[:300], b)
    report.raise_if_failed()
    features = next(i for i in report.results[0].inputs if i.input == "x")
    assert features.passed >= 200, "most rows of these random features must be visible to a witness"


def train(loss, steps=250, rate=1.0):
    """features = pixels A (N, 2): A, W and b by gradient descent with momentum on the loss's own gradients."""
    pixels, labels = digits()
    rng = np.random.default_rng(2)
    parameters = {"A": rng.normal(size=(64, 2)) / 4, "W": rng.normal(size=(CLASSES, 2))}
    if loss.has_bias:
        parameters["b"] = np.zeros(CLASSES)
    velocity = {key: np.zeros_like(value) for key, value in parameters.items()}
    history = []
    for _ in range(steps):
        x = pixels @ parameters["A"]
        value, grads = loss.value_and_grad(x, parameters["W"], labels, parameters.get("b"))
        history.append(float(value))
        found = {"A": pixels.T @ grads.x, "W": grads.W, "b": grads.b}
        for key in parameters:
            velocity[key] = 0.9 * velocity[key] - rate * found[key] / max(1.0, np.linalg.norm(found[key]))
            parameters[key] = parameters[key] + velocity[key] * 0.1
    x = pixels @ parameters["A"]
    z = loss.inference_logits(x, parameters["W"], parameters.get("b"))
    return x, parameters, history, float(np.mean(z.argmax(axis=1) == labels))


@pytest.mark.parametrize("name", refloss.losses())
def test_trained_two_dimensional_features(name):
    """refloss' own gradients train a 2-D feature map, and on what comes out every gradient is confirmed."""
    loss = make(name, **FOR_2D.get(name, {}))
    _, labels = digits()
    x, parameters, history, accuracy = train(loss)
    assert history[-1] < 0.75 * history[0], "gradient descent must bring the loss down"
    assert accuracy > 0.45, "ten classes on a plane of two linear features: well above 10 %"
    report = refloss.gradcheck(
        replace(loss, reduction="sum"), x[:150], parameters["W"], labels[:150], parameters.get("b")
    )
    report.raise_if_failed()
    seen = report.results[0].inputs[0]
    assert seen.passed >= 75, "half of the trained rows at least must be visible"

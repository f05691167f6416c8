"""The annealing schedules of released code: λ as a function of the iteration, and the authors' numbers by name::

    loss = refloss.LSoftmax(margin=4, annealing=refloss.schedules.L_SOFTMAX_MNIST(iteration))

λ is the weight of the plain logit in the target's, (λ cos θ + ψ(θ))/(1 + λ): large at first, when ψ is too hard, and
falling. A schedule is a function of the iteration; it counts nothing itself. The first forward pass is iteration 1.
Derivation: derivations/schedules.md, steps (S1)–(S2).
"""

from __future__ import annotations

from dataclasses import dataclass

from refloss import validation as check

__all__ = [
    "LSOFTMAX_PYTORCH",
    "L_SOFTMAX_CIFAR10",
    "L_SOFTMAX_CIFAR10_PLUS",
    "L_SOFTMAX_MNIST",
    "MX_LSOFTMAX",
    "SPHEREFACE",
    "SPHEREFACE_PLUS",
    "SPHEREFACE_PYTORCH",
    "SV_X_SOFTMAX",
    "Geometric",
    "InversePower",
]


@dataclass(frozen=True, kw_only=True)
class InversePower:
    """λ(n) = max(λ_min, base · (1 + γ (n + start))^(−power)), step (S1), as the Caffe layers have it.

    Source:
        wy1iu/LargeMargin_Softmax_Loss, src/caffe/layers/largemargin_inner_product_layer.cpp; wy1iu/sphereface,
        tools/caffe-sphereface/src/caffe/layers/margin_inner_product_layer.cpp. Their counter goes up before it is used,
        once a forward pass of the layer: with gradients accumulated over several passes (iter_size), several times an
        update.

    Args:
        base (float): ≥ 0, λ before the first pass; 0 is no annealing.
        gamma (float): γ ≥ 0, how fast it falls.
        power (float): ≥ 0.
        minimum (float): λ_min ≥ 0, the floor.
        start (int): ≥ 0, passes counted before the first, the layers' parameter "iteration".

    Raises:
        ValueError, TypeError: a parameter outside its domain, by name.

    Example:
        >>> from refloss.schedules import SPHEREFACE
        >>> print([round(SPHEREFACE(n), 3) for n in (1, 10, 100, 1658, 1659, 100000)])
        [892.857, 454.545, 76.923, 5.001, 5.0, 5.0]

        A loss with the next λ, everything else as it was:

        >>> from dataclasses import replace
        >>> import refloss
        >>> loss = refloss.SphereFace(margin=4, reduction="sum")
        >>> print(replace(loss, annealing=SPHEREFACE(1659)))
        ASoftmax(reduction='sum', margin=4, annealing=5.0)
    """

    base: float
    gamma: float
    power: float = 1.0
    minimum: float = 0.0
    start: int = 0

    def __post_init__(self) -> None:
        for name in ("base", "gamma", "power", "minimum"):
            object.__setattr__(self, name, check.not_negative(getattr(self, name), name))
        object.__setattr__(self, "start", check.count(self.start, "start", 0))

    def __call__(self, iteration: int) -> float:
        """The schedule's λ.

        Args:
            iteration (int): ≥ 1, the number of the forward pass; the first is 1.

        Returns:
            float: λ, for the option `annealing` of a loss.

        Raises:
            ValueError: iteration < 1.
            TypeError: iteration is no integer.
        """
        n = check.count(iteration, "iteration", 1)
        # (S1) λ = max(λ_min, base (1 + γ (n + start))^−power)
        return max(self.minimum, self.base * (1 + self.gamma * (n + self.start)) ** -self.power)


@dataclass(frozen=True, kw_only=True)
class Geometric:
    """λ(n) = max(λ_min, base · ratio^(n − 1)), step (S2): used first, then multiplied. The ports call it beta.

    Source:
        luoyetx/mx-lsoftmax, lsoftmax.py (multiplied after each backward); amirhfarzaneh/lsoftmax-pytorch, lsoftmax.py
        (after each forward of training).

    Args:
        base (float): ≥ 0, λ of the first pass.
        ratio (float): in [0, 1], what it is multiplied by after each pass; the ports' "scale".
        minimum (float): λ_min ≥ 0, the floor.

    Raises:
        ValueError, TypeError: a parameter outside its domain, by name.

    Example:
        >>> from refloss.schedules import LSOFTMAX_PYTORCH
        >>> print([round(LSOFTMAX_PYTORCH(n), 4) for n in (1, 2, 100, 1000)])
        [100.0, 99.0, 36.973, 0.0044]
    """

    base: float
    ratio: float
    minimum: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "base", check.not_negative(self.base, "base"))
        object.__setattr__(self, "ratio", check.fraction(self.ratio, "ratio"))
        object.__setattr__(self, "minimum", check.not_negative(self.minimum, "minimum"))

    def __call__(self, iteration: int) -> float:
        """The schedule's λ.

        Args:
            iteration (int): ≥ 1, the number of the forward pass; the first is 1.

        Returns:
            float: λ, for the option `annealing` of a loss.

        Raises:
            ValueError: iteration < 1.
            TypeError: iteration is no integer.
        """
        n = check.count(iteration, "iteration", 1)
        return max(self.minimum, self.base * self.ratio ** (n - 1))  # (S2) λ = max(λ_min, base ratio^(n − 1))


#: L-Softmax on MNIST, m = 4: wy1iu/LargeMargin_Softmax_Loss, myexamples/mnist.
L_SOFTMAX_MNIST = InversePower(base=1000, gamma=2.5e-5, power=35)
#: L-Softmax on CIFAR10, m = 2: the same, myexamples/cifar10.
L_SOFTMAX_CIFAR10 = InversePower(base=1000, gamma=2e-5, power=45)
#: L-Softmax on augmented CIFAR10, m = 2: the same, myexamples/cifar10+.
L_SOFTMAX_CIFAR10_PLUS = InversePower(base=1000, gamma=1e-5, power=45)
#: SphereFace, m = 4: wy1iu/sphereface, train/code/sphereface_model.prototxt. The floor is reached at iteration 1659.
SPHEREFACE = InversePower(base=1000, gamma=0.12, minimum=5)
#: SphereFace+: wy1iu/sphereface-plus, train/code/sfplus/sfplus_model.prototxt. At its floor from the start.
SPHEREFACE_PLUS = InversePower(base=1000, gamma=0.12, minimum=5, start=2000)
#: clcarwin/sphereface_pytorch, net_sphere.py: 1500/(1 + 0.1 n). The floor is reached at iteration 2990.
SPHEREFACE_PYTORCH = InversePower(base=1500, gamma=0.1, minimum=5)
#: xiaoboCASIA/SV-X-Softmax, fc_layers.py, and wujiyang/Face_Pytorch. The floor is reached at iteration 131422.
SV_X_SOFTMAX = InversePower(base=1000, gamma=1e-4, power=2, minimum=5)
#: luoyetx/mx-lsoftmax, plot_beta.py.
MX_LSOFTMAX = Geometric(base=100, ratio=0.99, minimum=1e-2)
#: amirhfarzaneh/lsoftmax-pytorch, lsoftmax.py.
LSOFTMAX_PYTORCH = Geometric(base=100, ratio=0.99)

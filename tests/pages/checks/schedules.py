"""Checks of schedules.md."""

from pages.evaluator import mp
from pages.page import Page
from pages.worlds import annealed_world, plain_world

page = Page(
    "schedules.md",
    lambda: [annealed_world(m, m) for m in (2, 4)],
    given=frozenset({"0.12", "0.000025", "0.00002", "0.00001", "0.0001", "0.01", "0.99"}),
)


@page.reads(r"\beta \left( 1 + \gamma", r"n + n_0 =")
def inverse_power():
    """Without a floor in sight; v is a value that the schedule passes."""
    base, gamma, power, start, n = mp.mpf(1000), mp.mpf("0.12"), mp.mpf(2), 3, 17
    at = base * mp.exp(-power * mp.log(1 + gamma * (n + start)))
    letters = {"beta": base, "gamma": gamma, "kappa": power, "n_0": start, "n": n, "v": at}
    return [plain_world({**letters, "lambda": max(at, floor), "lambda_min": floor}) for floor in (0, 10**4)]


@page.reads(r"\beta \rho^{n - 1}")
def geometric():
    letters = {"beta": 100, "rho": "0.9"}
    for n, floor in ((1, 0), (5, 0), (40, 20)):
        value = mp.mpf(100) * mp.mpf("0.9") ** (n - 1)
        yield plain_world({**letters, "n": n, "lambda_min": floor, "lambda": max(value, floor)})

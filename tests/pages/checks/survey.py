"""Checks of survey.md: formulas in its tables are the survey's, and claim nothing; its slips are examples that run."""

import math

from pages.checks.psi import largest_pull
from pages.page import Page

page = Page("survey.md")

for latex in (
    r"f(z_k) = e^{z_k} / \sum_j e^{z_j}",
    r"-\sum_{k=0}^C y_c \log f(z_c)",
    r"-\sum_{k=0}^C w_c y_c \log f(z_c)",
    r"(W_1 - W_2) x + b_1 - b_2 = 0",
    r"\lVert x \rVert (\cos\theta_1 - \cos\theta_2) = 0",
    r"\lVert x \rVert (\cos m\theta_1 - \cos\theta_2) = 0",
    r"s (\cos\theta_1 - m - \cos\theta_2) = 0",
    r"s (\cos(\theta_1 + m) - \cos\theta_2) = 0",
):
    page.no_claim(latex, "quoted; the page that the row links derives it")

page.numbers({"7.3756": largest_pull(4)[1], "745": -math.log(2**-537.5) * 2, "49.46°": math.degrees(math.acos(0.65))})

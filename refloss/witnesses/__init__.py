"""Independent witnesses: each differentiates the textbook form in its own way and states its own error.

`problem`            what they differentiate, with the natural scale and the textbook form's rounding
`finite_difference`  scipy.differentiate with its error estimate
`autograd_tape`      HIPS autograd
`complex_step`       directional derivatives without subtraction
`gradcheck`          the comparison, the report and `refloss.gradcheck`
`cases`              the named, aimed cases of `refloss gradcheck`
`steps`              the shared step pairs, each on its own
"""

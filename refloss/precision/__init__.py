"""Arithmetic beyond plain doubles, under NumPy's own names.

`numbers`     the base of arrays whose numbers are more than one double
`errorfree`   sums and products that keep what rounding would throw away
`pair`        numbers of 106 bits, `elementary` their e^v, log, sine, angle; `extended` lists what NumPy does to them
`products`    matrix products of doubles and of pairs
"""

from refloss.precision import extended as extended

"""The survey's formulas, each once and plainly, and the array namespaces that can run them.

`formulas`    no derivative, no numerical trick, nothing shared with the explicit passes
`rows`        arrays read as rows, and the rows' lengths
`tape`        the order in which a reverse-mode tape is walked
`namespaces`  real, complex and differentiable arrays; balls and perturbed arithmetic belong here too
"""

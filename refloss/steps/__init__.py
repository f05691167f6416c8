"""The steps that the losses share: each a pair of functions, forward and backward, in a file of its own.

`linear`         W_j·x + b_j of every pair
`normalise`      ‖v‖ and v̂ of every row
`angle`          cos θ of every pair; θ and both unit tangents of the target pairs
`psi`            the multiplicative margin ψ(θ) of L-Softmax and SphereFace
`margin`         what else may happen to a target logit: additive margins, annealing, detaching
`targets`        what logits are compared with
`logsumexp`      partial log-sum-exp of blocks of classes, joined; probabilities
`cross_entropy`  from these to the loss, and back to the logits
"""

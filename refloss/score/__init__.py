"""What the oracle and the proofs are worth: right writers, rivals, matrices, peers and the table of the grid.

Not part of what users install; run its commands from a checkout.
"""

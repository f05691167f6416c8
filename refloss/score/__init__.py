"""What the oracle and the proofs are worth: right writers, rivals, matrices, peers and the page of the proofs.

Not in the installed package; run its commands as `python -m refloss` in a checkout of the repository.
"""

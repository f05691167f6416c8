"""Aimed inputs, for everyone who asks what a loss does there: `gradcheck`, the oracle and `certify`.

`case`            what a case is
`angles`          vectors at a chosen angle: in floats, in decimal arithmetic, made of integers
`configurations`  every loss with every option, by name; the gradients that arrive
`gradcheck`       the cases of `refloss gradcheck`
`oracle`          the named cases of `refloss.testing.check`, made by a `maker`; `layouts` and `corners`, more of them
`grid`            the adversarial points of `refloss certify`
`coverage`        which branches and regimes inputs reached, and which are to be reached
"""

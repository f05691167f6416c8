"""Aimed inputs, for everyone who asks what a loss does there: `gradcheck`, the oracle and `certify`.

`gradcheck`  the cases of `refloss gradcheck`
`oracle`     the named cases of `refloss.testing.check`
`grid`       the adversarial points of `refloss certify`, placed in decimal arithmetic (`placing`)
`coverage`   which branches and regimes inputs reached
"""

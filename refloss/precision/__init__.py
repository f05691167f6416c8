"""Error-free transformations: arithmetic that keeps what rounding would throw away."""

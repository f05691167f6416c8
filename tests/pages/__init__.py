"""The pages are tested like code: their formulas, numbers, steps, code blocks and links."""

"""Test vectors: what the oracle knows, in files that a program in any language can hold its own numbers against."""

from refloss.testing.vectors.files import check, read, write
from refloss.testing.vectors.make import Vector, Vectors, make_vectors
from refloss.testing.vectors.tensors import Tensor, VectorsError

__all__ = ["Tensor", "Vector", "Vectors", "VectorsError", "check", "make_vectors", "read", "write"]

"""The tests to run and to read first: `pytest tests/quick`."""

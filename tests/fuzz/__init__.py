"""Fuzzing of the HTTP/1.1 parsers: `python -m tests.fuzz --seconds N`."""

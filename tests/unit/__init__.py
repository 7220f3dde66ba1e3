"""Unit tests: each decision alone, without network and without waiting."""

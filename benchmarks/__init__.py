"""Benchmarks: what the README and the log claim, measured again on your machine."""

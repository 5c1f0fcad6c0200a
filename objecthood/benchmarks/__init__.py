"""Benchmarks of our models against a plain reference implementation of the paper, in one process."""

"""Benchmarks: `python -m tests.bench` measures the relay beside the raw limits of the machine, in one run."""

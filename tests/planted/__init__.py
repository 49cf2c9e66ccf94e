"""Planted bugs: each repeats a failure that messaging systems really had; some test must notice (safety §10).

`python -m tests.planted` plants them one by one in a copy of the project, and runs the tests that should fail on it.
"""

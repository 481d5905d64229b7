"""Runs suites through lm-eval and returns graded items."""

"""Runs suites through lm-eval: tasks in, graded items out."""

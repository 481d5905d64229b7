"""Rewrites a dense model into a dense model of another shape."""

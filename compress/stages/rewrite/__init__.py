"""Stages of kind `rewrite`: a dense model in, a dense model of another shape out."""

"""Tuning: what was packed is fitted to the dense model. Codes stay; scales, codebooks, outliers, norms move."""

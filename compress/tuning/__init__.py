"""Tuning: fits the floating-point planes of packed linears to the dense model; additive codes may change as well."""

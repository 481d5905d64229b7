"""Computes y = x · unpack(planes)ᵀ + bias. `reference` defines the result, `select` chooses the kernel."""

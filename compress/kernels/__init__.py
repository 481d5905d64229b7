"""Kernels: y = x · unpack(planes)ᵀ + bias. `reference` is the truth, `select` says which one runs and why."""

"""The gate: a paired non-inferiority test of a compressed model against the dense one."""

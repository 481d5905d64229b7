"""Numerical building blocks of the methods: tensors in, tensors out."""

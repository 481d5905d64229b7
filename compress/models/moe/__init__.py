"""Mixtures of experts: how a module holds its experts' matrices, how its forward uses them, and its routers."""

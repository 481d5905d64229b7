"""Supports mixtures of experts: layout of the experts' matrices, forward expert by expert, routers."""

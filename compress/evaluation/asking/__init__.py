"""Decides which questions a model is asked, and in which form: suite, tier, items that fit, chat template."""

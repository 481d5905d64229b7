"""Trains whole models: the training loop, distillation, sparse training, learned masks."""

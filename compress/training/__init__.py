"""Trains whole models: the training loop, distillation, adaptive sparse training, learned masks."""

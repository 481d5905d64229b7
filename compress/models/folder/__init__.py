"""A model folder on disk: found, recognised, its configuration and tensors checked and read."""

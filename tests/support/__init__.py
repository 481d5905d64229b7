"""What tests of several packages share: tiny models, packed checkpoints, results, small methods, processes to kill."""

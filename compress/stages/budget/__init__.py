"""Mixed precision: measures the loss of each candidate setting and chooses one per linear within a size."""

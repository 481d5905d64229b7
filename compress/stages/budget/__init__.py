"""Mixed precision: measures what each setting costs and chooses one per linear within a size."""

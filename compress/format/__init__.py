"""The checkpoint format: schemes, packed tensors, layouts, reader and writer. docs/FORMAT.md specifies it."""

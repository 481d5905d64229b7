"""Results as tables: terminal, markdown, notebook."""

"""Makes the report on runs: reads their folders, collects the content as plain data, writes HTML or markdown."""

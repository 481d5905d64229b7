"""Shows the verdict of `compress gate`: as a table, markdown, and JUnit XML."""

"""Shows results and progress: on the terminal, as markdown, HTML and JSON. Renders only; nothing is measured here."""

"""How results and progress are shown: terminal, markdown, notebook. Everything here renders; nothing measures."""

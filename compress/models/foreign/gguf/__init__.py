"""Reads GGUF files: the header, configuration and tokenizer made of it, and the blocks of the weights."""

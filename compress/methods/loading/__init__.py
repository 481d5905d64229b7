"""Turns the files of methods into objects that callers use."""

"""Uploads finished folders to the Hugging Face hub.

The function is `compress.push`; the package has another name, since a package takes the place of a function.
"""

"""Reads users' text: decodes files, picks documents out of rows and chats, encodes them with special tokens.

Calibration and evaluation read text through this package alone. Importing it imports nothing heavy.
"""

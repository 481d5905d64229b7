"""Text as users have it: decoded from files, picked out of rows and chats, encoded with special tokens on purpose.

Calibration and evaluation read text through this package alone. Importing it imports nothing heavy.
"""

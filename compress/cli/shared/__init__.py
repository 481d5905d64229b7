"""Options, arguments and messages that several commands have in common."""

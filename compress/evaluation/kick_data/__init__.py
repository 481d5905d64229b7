"""Downloads, reads and checks the public data of the suite kick, and makes its items."""

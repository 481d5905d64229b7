"""The public data of the suite kick: where it is, how it is read and checked, and the items made of it."""

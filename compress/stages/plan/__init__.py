"""Plans a run before it starts: coverage, estimates of size, memory and time, refusals."""

"""Shows a run as tables: *dense vs compressed*, the layers of a checkpoint, a plan, allotted bits."""

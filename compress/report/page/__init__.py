"""The HTML report: reads runs, gathers their content as plain data, renders it."""

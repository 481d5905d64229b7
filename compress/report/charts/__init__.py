"""Draws the charts of the HTML report as SVG and tables, with their colours."""

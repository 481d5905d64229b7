"""SVG charts of the HTML report and the colours that they use."""

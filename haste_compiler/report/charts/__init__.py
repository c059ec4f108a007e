"""The charts of a report, each a function from the evidence to a figure of Bokeh's."""

"""A model met with data, and where it is computed."""

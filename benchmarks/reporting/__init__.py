"""Sections of the page that report.py writes: one module per section, each from one results file."""

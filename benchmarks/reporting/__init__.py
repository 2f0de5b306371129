"""What report.py puts on the page: one module a section, each from one results file."""

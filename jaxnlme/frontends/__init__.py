"""Doors other than Python: the command line, its reports, the demo, and the cache of compiled programs."""

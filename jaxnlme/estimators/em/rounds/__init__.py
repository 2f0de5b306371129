"""Rounds of draws at fixed parameters, and the moves between them."""

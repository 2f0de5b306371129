"""Tables of `benchmarks/trust.py` that are studies of their own: simulated dose-response data, and coverage."""

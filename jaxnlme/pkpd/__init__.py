"""Structural models of pharmacometrics, for the doses and resets of an event table."""

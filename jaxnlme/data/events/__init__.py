"""Dose events: records on an axis of their own, and the doses that they stand for."""

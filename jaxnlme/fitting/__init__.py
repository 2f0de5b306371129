"""Entry points: fit, fit_many, update, save and load."""

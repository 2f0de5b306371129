"""The record of a fit and what follows from it: inference, criteria, predictions, simulations, summaries."""

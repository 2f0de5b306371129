"""Choice between models: likelihood ratio tests, stepwise search."""

"""The posterior distribution of a fit: its draws, random effects, log-likelihoods, and ArviZ's container."""

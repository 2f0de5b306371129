"""Maximum likelihood and REML by a marginal likelihood approximation."""

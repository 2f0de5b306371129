"""The density of one group: parameters, designs, covariances, residual errors, priors, and their binding to data."""

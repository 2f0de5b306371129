"""The model a user declares, and the density of one group: parameters, designs, covariances, residual models,
priors."""

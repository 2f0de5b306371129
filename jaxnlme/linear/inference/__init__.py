"""Inference on linear mixed models: degrees of freedom, tests, contrasts, means, residual autocorrelation."""

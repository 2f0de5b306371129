"""What a fit looks like beside its data: residuals, curves and pictures."""

"""Pictures of a fit: `fit.plot`."""

"""Linear mixed models by formula: the record of a fit, its tables, and inference."""

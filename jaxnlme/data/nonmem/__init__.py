"""NONMEM-style tables: doses, observations and covariates in one table, one record a row."""

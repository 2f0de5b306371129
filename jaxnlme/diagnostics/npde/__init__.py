"""Normalised prediction discrepancies (npd) and prediction distribution errors (npde)."""

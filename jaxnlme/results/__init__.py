"""What a fit is and what may be asked of it: tables, criteria, predictions, simulations, files."""

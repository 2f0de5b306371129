"""MATLAB's nlmefit and nlmefitsa."""

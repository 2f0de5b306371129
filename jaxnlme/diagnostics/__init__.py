"""Residuals, prediction curves and plots of a fit."""

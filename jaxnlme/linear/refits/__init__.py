"""Refits of linear mixed models: profiles and bootstraps."""

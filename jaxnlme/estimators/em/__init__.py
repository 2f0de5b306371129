"""Stochastic EM: SAEM and IMP."""

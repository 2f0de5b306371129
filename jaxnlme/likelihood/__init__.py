"""The likelihood of a group: conditional modes, curvatures, integrals, and the likelihood approximations made of
them."""

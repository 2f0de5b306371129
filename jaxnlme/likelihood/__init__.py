"""From the density of a group to its likelihood: modes, curvatures, integrals, and the ladder made of them."""

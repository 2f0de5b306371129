"""General numerical methods, independent of mixed models: linear algebra, minimisation, quadrature, derivatives."""

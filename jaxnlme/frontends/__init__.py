"""Entry points beside `jn.fit`: the command line, MATLAB's nlmefit and nlmefitsa; the cache of compiled programs."""

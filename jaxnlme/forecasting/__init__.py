"""Regimens, simulation of new subjects, exposure, target attainment, and forecasts for one patient: `jn.pkpd`."""

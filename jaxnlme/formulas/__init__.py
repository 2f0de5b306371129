"""Formulas in the spelling of R's nlme and lme4: what they say (`mixed.py`), and the design matrices that they describe
for a data frame (`design.py`)."""

"""Linear mixed models by formula, in the spelling of nlme and lme4."""

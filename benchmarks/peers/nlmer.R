# lme4's nlmer: the Laplace approximation (nAGQ = 1). Arguments and output: see common.R.
# Default is bobyqa, the fastest of the derivative-free optimisers that it offers; the sixth argument takes another.
folder <- dirname(sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(folder, "common.R"))
suppressPackageStartupMessages(library(lme4))
if (optimiser == "default") optimiser <- "bobyqa"

formula <- if (psi_structure == "diagonal") {
  conc ~ concentration(Dose, Time, lka, lcl, lvol) ~ (0 + lka | Subject) + (0 + lcl | Subject) + (0 + lvol | Subject)
} else {
  conc ~ concentration(Dose, Time, lka, lcl, lvol) ~ (0 + lka + lcl + lvol | Subject)
}

fitter <- function() {
  # nlmer reads its formula unevaluated: do.call hands it the formula itself.
  control <- nlmerControl(optimizer = optimiser)
  fit <- do.call(nlmer, list(formula, data = quote(table), start = starts, nAGQ = 1L, control = control))
  sqrt(diag(as.matrix(vcov(fit)))) # standard errors of the fixed effects
  fit
}

# The blocks of VarCorr in the order lka, lcl, lvol, whatever the order of the terms.
psi_of <- function(fit) {
  psi <- matrix(0, 3, 3, dimnames = list(names(starts), names(starts)))
  for (block in VarCorr(fit)) psi[rownames(block), colnames(block)] <- as.matrix(block)
  unname(psi)
}

report("lme4", fitter, function(fit) {
  messages <- as.character(unlist(fit@optinfo$conv$lme4$messages))
  list(
    converged = length(messages) == 0 && isTRUE(fit@optinfo$conv$opt == 0), log_likelihood = as.numeric(logLik(fit)),
    iterations = fit@optinfo$feval, messages = I(messages), beta = as.numeric(fixef(fit)),
    se_beta = sqrt(diag(as.matrix(vcov(fit)))), psi = psi_of(fit), sigma = sigma(fit)
  )
})

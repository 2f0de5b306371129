# nlme: maximum likelihood by the Lindstrom-Bates alternation. Arguments and output: see common.R.
folder <- dirname(sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE)))
source(file.path(folder, "common.R"))
suppressPackageStartupMessages(library(nlme))

pattern <- if (psi_structure == "diagonal") pdDiag(lka + lcl + lvol ~ 1) else pdLogChol(lka + lcl + lvol ~ 1)

fitter <- function() {
  fit <- nlme(
    conc ~ concentration(Dose, Time, lka, lcl, lvol),
    data = table, fixed = lka + lcl + lvol ~ 1, random = list(Subject = pattern), start = starts, method = "ML",
    # Caps only: the tolerances are nlme's own.
    control = nlmeControl(maxIter = 200, pnlsMaxIter = 50, msMaxIter = 200)
  )
  summary(fit)$tTable # standard errors of the fixed effects; nlme computes no more than these and apVar on the way
  fit
}

report("nlme", fitter, function(fit) {
  list(
    converged = TRUE, log_likelihood = as.numeric(logLik(fit)), iterations = fit$numIter, beta = as.numeric(fixef(fit)),
    se_beta = sqrt(diag(fit$varFix)), psi = unname(as.matrix(fit$modelStruct$reStruct[[1]]) * fit$sigma^2), sigma = fit$sigma
  )
})

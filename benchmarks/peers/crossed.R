# Linear models with crossed random effects by lme4, on two simulated unbalanced tables, each in a JSON file of tests/data with
# its rows. Tolerances of the search are tight, so that estimates agree to five digits.
#   Rscript benchmarks/peers/crossed.R
suppressPackageStartupMessages({
  library(lme4)
  library(jsonlite)
})
here <- dirname(normalizePath(sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE))))
folder <- file.path(dirname(dirname(here)), "tests", "data")

tight <- lmerControl(
  optimizer = "nloptwrap", calc.derivs = FALSE,
  optCtrl = list(xtol_abs = 1e-10, xtol_rel = 1e-10, ftol_abs = 1e-12, ftol_rel = 1e-14, maxeval = 1e5)
)

result <- function(formula, table, reml) {
  fit <- lmer(formula, table, REML = reml, control = tight)
  list(
    logLik = as.numeric(logLik(fit)), fixef = as.list(fixef(fit)), se = unname(sqrt(diag(as.matrix(vcov(fit))))),
    sigma = sigma(fit), psi = lapply(VarCorr(fit), function(m) unname(as.matrix(m[, , drop = FALSE]))[, , drop = FALSE]),
    ranef = lapply(ranef(fit, condVar = FALSE), function(t) list(unit = rownames(t), values = unname(as.matrix(t))))
  )
}

write_case <- function(name, formula, table) {
  both <- list(ML = result(formula, table, FALSE), REML = result(formula, table, TRUE))
  versions <- list(R = R.version.string, lme4 = as.character(packageVersion("lme4")))
  content <- list(formula = deparse(formula, width.cutoff = 200), versions = versions, table = as.list(table), fits = both)
  write(toJSON(content, digits = 12, auto_unbox = TRUE, matrix = "rowmajor"), file.path(folder, paste0(name, ".json")))
}

# Units drawn with unequal chances: some have many rows, some one or two.
unequal <- function(n, units) sample(units, n, TRUE, prob = rexp(units) + 0.1)

set.seed(31)
n <- 420
a <- unequal(n, 45)
b <- unequal(n, 17)
x <- round(runif(n, 0, 10), 2)
psi <- matrix(c(1.5, -0.15, -0.15, 0.09), 2)
effects <- matrix(rnorm(90), 45) %*% chol(psi)
y <- 4 + 0.6 * x + effects[a, 1] + effects[a, 2] * x + rnorm(17, 0, 0.8)[b] + rnorm(n, 0, 1.1)
write_case("crossed_slopes", y ~ x + (x | a) + (1 | b), data.frame(y = round(y, 4), x = x, a = sprintf("a%02d", a), b = sprintf("b%02d", b)))

set.seed(32)
n <- 500
a <- unequal(n, 12)
c <- sample(6, n, TRUE)
b <- unequal(n, 23)
treatment <- sample(c("control", "low", "high"), n, TRUE, prob = c(0.5, 0.3, 0.2))
y <- 10 + c(control = 0, low = 0.7, high = 1.9)[treatment] + rnorm(12, 0, 1.2)[a] + rnorm(72, 0, 0.7)[(a - 1) * 6 + c] +
  rnorm(23, 0, 0.9)[b] + rnorm(n, 0, 0.8)
write_case(
  "crossed_and_nested", y ~ treatment + (1 | a / c) + (1 | b),
  data.frame(y = round(y, 4), treatment = treatment, a = sprintf("a%02d", a), c = sprintf("c%d", c), b = sprintf("b%02d", b))
)

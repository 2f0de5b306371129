# Tests of fixed effects by lmerTest, pbkrtest, nlme and emmeans on two tables with rows removed at random; residual
# autocorrelations and variograms by nlme. Written to tests/data/linear_inference.json:
#   Rscript benchmarks/peers/inference.R tests/tables tests/data/linear_inference.json
suppressPackageStartupMessages({
  library(nlme)
  library(lme4)
  library(lmerTest)
  library(emmeans)
})
arguments <- commandArgs(trailingOnly = TRUE)
emm_options(msg.nesting = FALSE, msg.interaction = FALSE)
set.seed(20121)
tight <- lmerControl(optCtrl = list(xtol_rel = 1e-12, ftol_abs = 1e-12), calc.derivs = FALSE)
tight_lme <- lmeControl(msTol = 1e-12, tolerance = 1e-12, msMaxIter = 500, niterEM = 100)

as_rows <- function(table) {
  table <- as.data.frame(table)
  cbind(term = rownames(table), table)
}

points_of <- function(variogram) {
  n <- variogram$n.pairs
  out <- data.frame(distance = variogram$dist, variogram = variogram$variog)
  if (!is.null(n)) out$n <- n
  out
}

cases <- list(
  BodyWeight = list(
    removed = 40, lmer = weight ~ Time * Diet + (Time | Rat), fixed = weight ~ Time * Diet, random = ~ Time | Rat,
    means = list(~Diet), factors = c("Rat", "Diet")
  ),
  CO2 = list(
    removed = 20, lmer = uptake ~ Type * Treatment + log(conc) + (1 | Plant),
    fixed = uptake ~ Type * Treatment + log(conc), random = ~ 1 | Plant,
    means = list(~Type, ~ Treatment | Type), factors = c("Plant", "Type", "Treatment")
  )
)

out <- list(versions = list(
  r = paste(R.version$major, R.version$minor, sep = "."), nlme = as.character(packageVersion("nlme")),
  lme4 = as.character(packageVersion("lme4")), lmerTest = as.character(packageVersion("lmerTest")),
  pbkrtest = as.character(packageVersion("pbkrtest")), emmeans = as.character(packageVersion("emmeans"))
))
for (name in names(cases)) {
  case <- cases[[name]]
  table <- read.csv(file.path(arguments[1], paste0(name, ".csv")))
  for (column in case$factors) table[[column]] <- factor(table[[column]])
  rows <- sort(sample(nrow(table), nrow(table) - case$removed))
  kept <- table[rows, ]
  found <- list(rows = rows)
  for (method in c("REML", "ML")) {
    model <- lmerTest::lmer(case$lmer, kept, REML = method == "REML", control = tight)
    part <- list(log_likelihood = as.numeric(logLik(model)))
    for (ddf in if (method == "REML") c("Satterthwaite", "Kenward-Roger") else "Satterthwaite") {
      part[[ddf]] <- list(
        coefficients = as_rows(coef(summary(model, ddf = ddf))),
        type1 = as_rows(anova(model, type = 1, ddf = ddf)),
        type3 = as_rows(anova(model, type = 3, ddf = ddf))
      )
    }
    found[[method]] <- part
  }
  reml <- lmerTest::lmer(case$lmer, kept, control = tight)
  other <- lme(case$fixed, kept, case$random, control = tight_lme)
  found$nlme <- list(
    log_likelihood = as.numeric(logLik(other)), coefficients = as_rows(summary(other)$tTable),
    sequential = as_rows(anova(other)), marginal = as_rows(anova(other, type = "marginal"))
  )
  found$means <- lapply(case$means, function(specs) {
    lapply(list(`kenward-roger` = "kenward-roger", satterthwaite = "satterthwaite", containment = "containment"), function(mode) {
      means <- if (mode == "containment") emmeans(other, specs, mode = mode) else emmeans(reml, specs, lmer.df = mode)
      list(means = as.data.frame(means), pairs = as.data.frame(pairs(means)))
    })
  })
  names(found$means) <- sapply(case$means, function(specs) paste(deparse(specs), collapse = ""))
  correlations <- ACF(other)
  found$acf <- data.frame(lag = correlations$lag, acf = correlations$ACF, n = attr(correlations, "n.used"))
  found$acf5 <- ACF(other, maxLag = 5, resType = "response")$ACF
  position <- if (name == "BodyWeight") ~Time else ~conc
  found$variogram <- list(
    plain = points_of(Variogram(other, form = position)),
    robust = points_of(Variogram(other, form = position, nint = 6, robust = TRUE)),
    fixed = points_of(Variogram(other, form = position, nint = 5, collapse = "fixed")),
    none = points_of(Variogram(other, form = position, maxDist = if (name == "CO2") 200 else 20, collapse = "none"))
  )
  out[[name]] <- found
}
write(jsonlite::toJSON(out, auto_unbox = TRUE, digits = 10, na = "null"), arguments[2])

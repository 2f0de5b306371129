# Lindstrom and Bates' alternation with the linear mixed model of every step fitted by nlme's lme, for the restricted likelihood:
# nlme's own C code for the penalised least squares step (nlmefit.c, nlme_increment) updates Psi / sigma^2 by maximum likelihood
# whatever the method, so that nlme(method = "REML") ends with Psi / sigma^2 by maximum likelihood, the correlation and the
# power by the restricted one. For a linear model it differs from lme: Oxboys, -368.3354 against -368.3202.

# The estimates of a fit by lme in the form of estimates_of(), from the linear model at (beta, effects).
lme_step <- function(declared, table, beta, effects, method, previous) {
  linear <- linearise(declared, table, beta, effects)
  columns <- function(matrix, prefix) setNames(as.data.frame(matrix), paste0(prefix, seq_len(ncol(matrix))))
  working <- cbind(table, columns(linear$x, "x."), data.frame(w. = linear$w, f. = linear$f))
  for (l in seq_along(linear$z)) working <- cbind(working, columns(linear$z[[l]], paste0("z", l, ".")))
  sum_of <- function(prefix, n) paste0(paste0(prefix, seq_len(n), collapse = " + "), " - 1")
  pattern <- if (declared$psi == "diagonal") pdDiag else pdLogChol
  random <- lapply(seq_along(linear$z), function(l) {
    form <- as.formula(paste("~", sum_of(paste0("z", l, "."), ncol(linear$z[[l]]))))
    if (is.null(previous)) pattern(form) else pattern(unname(previous$psi[[l]]) / previous$sigma^2, form = form)
  })
  correlation <- NULL
  if (!is.null(declared$correlation)) {
    value <- if (is.null(previous)) declared$correlation$start else unname(previous$correlation)
    correlation <- switch(declared$correlation$class,
      corAR1 = corAR1(value, form = declared$correlation$form), corCAR1 = corCAR1(value, form = declared$correlation$form),
      corARMA = corARMA(value, form = declared$correlation$form, p = 1, q = 1)
    )
  }
  power <- if (is.null(previous)) declared$power else unname(previous$power)
  control <- lmeControl(
    maxIter = 200, msMaxIter = 500, msMaxEval = 3000, msTol = 1e-13, tolerance = 1e-10, apVar = FALSE, returnObject = TRUE,
    rel.tol = 1e-15, x.tol = 1e-13, niterEM = if (is.null(previous)) 25 else 0
  )
  fit <- do.call(lme, list(
    as.formula(paste("w. ~", sum_of("x.", ncol(linear$x)))),
    data = working, random = setNames(random, names(declared$random)),
    correlation = correlation, weights = if (!is.null(power)) varPower(power, form = ~f.), method = method, control = control
  ))
  list(fit = fit, estimates = estimates_of(fit, declared))
}

# nlme's names of the columns of a design: parameter, or parameter.column where it has covariates.
column_names <- function(formulas, table, plain) {
  unlist(Map(function(name, design) {
    if (ncol(design) == 1 && colnames(design) == "(Intercept)" && plain(name)) name else paste(name, colnames(design), sep = ".")
  }, names(formulas), designs_of(formulas, table)), use.names = FALSE)
}
with_names <- function(estimates, declared, table) {
  constant <- function(formula) identical(formula[[2]], 1)
  in_effects <- function(name) Filter(Negate(is.null), lapply(declared$random, function(formulas) formulas[[name]]))
  fixed <- column_names(declared$fixed, table, function(name) all(vapply(in_effects(name), constant, NA)))
  estimates$fixef <- setNames(unname(estimates$fixef), fixed)
  for (level in names(declared$random)) {
    effects <- column_names(declared$random[[level]], table, function(name) constant(declared$fixed[[name]]))
    colnames(estimates$ranef[[level]]) <- effects
    dimnames(estimates$psi[[level]]) <- list(effects, effects)
  }
  estimates
}

# A share of the way from one set of estimates to the next; 1 for all of it.
part_way <- function(from, to, share) {
  if (share == 1) {
    return(to)
  }
  mix <- function(a, b) (1 - share) * a + share * b
  to$fixef <- mix(from$fixef, to$fixef)
  to$ranef <- Map(function(a, b) mix(a[rownames(b), , drop = FALSE], b), from$ranef, to$ranef)
  to$psi <- Map(mix, from$psi, to$psi)
  for (name in c("sigma", "correlation", "power")) if (!is.null(to[[name]])) to[[name]] <- mix(from[[name]], to[[name]])
  to
}

# The alternation from fixed effects and effects of zero, by lme until no standardised step is above 1e-4, and from there, or
# from given estimates, by Newton steps in the covariance parameters (correlated_check.R), for lme's optimiser leaves 1e-4
# standard errors.
# Where steps grow, half of each is taken, and so on: full steps lead away from some fixed points (BodyWeight_asymp, fourfold
# each).
# It ends where no step is above 1e-8, or 1e-6 after 60 iterations. Returns estimates, logLik, df, se, the iterations, and the
# log-likelihood that lme reports for the last linear model.
alternate <- function(declared, table, method, beta, estimates = NULL) {
  levels_of <- names(declared$random)
  sizes <- vapply(declared$random, function(formulas) sum(vapply(designs_of(formulas, table), ncol, 0L)), 0L)
  n_parameters <- length(beta) + 1 + length(declared$correlation$start) + length(declared$power) +
    sum(if (declared$psi == "diagonal") sizes else sizes * (sizes + 1) / 2)
  by_lme <- 0
  if (is.null(estimates)) {
    effects <- lapply(seq_along(sizes), function(l) {
      labels <- unique(labels_of(table, levels_of[1:l]))
      matrix(0, length(labels), sizes[l], dimnames = list(labels, NULL))
    })
    for (by_lme in seq_len(30)) {
      step <- suppressWarnings(lme_step(declared, table, beta, effects, method, estimates))
      estimates <- step$estimates
      moved <- max(abs(estimates$fixef - beta) / sqrt(diag(step$fit$varFix)))
      for (l in seq_along(effects)) {
        sds <- rep(sqrt(diag(estimates$psi[[l]])), each = nrow(effects[[l]]))
        moved <- max(moved, abs(estimates$ranef[[l]][rownames(effects[[l]]), ] - effects[[l]]) / sds)
      }
      beta <- unname(estimates$fixef)
      effects <- estimates$ranef
      if (moved < 1e-4) break
    }
    estimates <- with_names(estimates, declared, table)
  }
  share <- 1
  smallest <- Inf
  for (by_newton in seq_len(150)) {
    found <- check_fixed_point(declared, table, estimates, method)
    steps <- unlist(found$check[c("covariance_step", "fixed_step", "random_step")])
    if (anyNA(steps)) stop("the linearised log-likelihood has no maximum nearby")
    if (max(steps) < if (by_newton > 60) 1e-6 else 1e-8) {
      last <- suppressWarnings(lme_step(declared, table, unname(estimates$fixef), estimates$ranef, method, estimates))$fit
      return(list(
        estimates = estimates, logLik = found$check$log_likelihood, df = n_parameters, se = found$se,
        by_lme = as.numeric(logLik(last)), iterations = c(lme = by_lme, newton = by_newton)
      ))
    }
    if (max(steps) > smallest) share <- max(share / 2, 1 / 8)
    smallest <- min(smallest, max(steps))
    estimates <- part_way(estimates, found$answer, share)
  }
  stop(sprintf("the last step was %.2g standard errors", max(steps)))
}

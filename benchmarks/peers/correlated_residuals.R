# Reference fits by nlme of nonlinear mixed models with serially correlated residuals, with tight limits and a check of each.
#   Rscript benchmarks/peers/correlated_residuals.R [--only PATTERN] [--table [--failures]]
# Writes benchmarks/results/correlated_nlme.json; with --only, models whose names match are replaced in it. --table prints the
# existing results as a table. Cases: correlated_cases.R; tables: correlated_tables.R; the check of each fit: correlated_check.R;
# fits by the restricted likelihood: correlated_alternation.R, which says why nlme's own are not enough. Needs jsonlite.
suppressPackageStartupMessages(library(nlme))
here <- dirname(normalizePath(sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE))))
root <- dirname(dirname(here))
path <- file.path(root, "benchmarks", "results", "correlated_nlme.json")
for (name in c("cases", "check", "alternation")) source(file.path(here, sprintf("correlated_%s.R", name)))

# Limits to try, tightest first: (tolerance of the alternation, of its PNLS step). nlme stops with an error where rounding hides
# progress, and the next pair is tried. The linear mixed model's step is by PORT, with its own limits near rounding.
LIMITS <- list(c(1e-9, 1e-9), c(1e-8, 1e-8), c(1e-7, 1e-7), c(1e-6, 1e-6), c(1e-6, 1e-4), c(1e-5, 1e-3))
control_of <- function(limits) {
  nlmeControl(
    maxIter = 100, pnlsMaxIter = 100, msMaxIter = 500, eval.max = 2000, tolerance = limits[1], pnlsTol = limits[2],
    rel.tol = 1e-14, x.tol = 1e-11, minScale = 1e-8, msWarnNoConv = FALSE, returnObject = FALSE
  )
}

# A fit is trusted where all of these hold.
AGREEMENT <- 1e-5 # largest difference of log-likelihoods, over fits from other starts
RECOMPUTED <- 1e-6 # largest difference from the log-likelihood of correlated_check.R
GAIN <- 1e-5 # most log-likelihood that a Newton step in the covariance parameters gains
STEP <- 1e-3 # largest step from the estimates, in standard errors (fixed, covariance) or standard deviations (random)
SMALLEST <- 1e-3 # smallest spread of a variance that is not zero: of the estimated effects in their standard deviations

# The call of nlme; d, s, r, v and m stand for the table, the starts (fixed effects, correlation, power) and the method.
two_sided <- function(formulas) {
  as.call(c(quote(list), unname(Map(function(name, formula) call("~", as.name(name), formula[[2]]), names(formulas), formulas))))
}
call_of <- function(declared) {
  pattern <- if (declared$psi == "diagonal") quote(pdDiag) else quote(pdLogChol)
  random <- as.call(c(quote(list), lapply(declared$random, function(formulas) as.call(list(pattern, two_sided(formulas))))))
  parts <- list(
    quote(nlme), strip(declared$model), data = quote(d), fixed = two_sided(declared$fixed), random = random, start = quote(s),
    method = quote(m), control = quote(k)
  )
  if (!is.null(declared$correlation)) {
    correlation <- list(as.name(declared$correlation$class), quote(r), form = strip(declared$correlation$form))
    if (declared$correlation$class == "corARMA") correlation <- c(correlation, p = 1, q = 1)
    parts$correlation <- as.call(correlation)
  }
  if (!is.null(declared$power)) parts$weights <- quote(varPower(v, form = ~ fitted(.)))
  as.call(parts)
}
strip <- function(formula) as.call(lapply(seq_along(formula), function(i) formula[[i]])) # without environment and class
text_of <- function(expression) gsub("\\s+", " ", paste(deparse(expression, width.cutoff = 500L), collapse = " "))

# A fit by the tightest limits that nlme reaches from these starts, or the error of the last.
fit_by <- function(declared, table, method, starts) {
  where <- list2env(list(d = table, s = starts$fixed, r = starts$correlation, v = starts$power, m = method), parent = globalenv())
  failures <- character()
  for (limits in LIMITS) {
    where$k <- control_of(limits)
    warned <- character()
    before <- proc.time()[[3]]
    fit <- tryCatch(
      withCallingHandlers(eval(call_of(declared), where), warning = function(w) {
        warned <<- c(warned, conditionMessage(w))
        invokeRestart("muffleWarning")
      }),
      error = identity
    )
    seconds <- proc.time()[[3]] - before
    if (!inherits(fit, "error")) {
      return(list(fit = fit, limits = limits, warnings = unique(warned), failures = failures, seconds = seconds))
    }
    failures <- c(failures, sprintf("%g, %g: %s", limits[1], limits[2], conditionMessage(fit)))
  }
  list(fit = NULL, failures = failures)
}

# The declared starts, and three others: fixed effects moved by up to 8%, other correlations and powers.
starts_of <- function(declared) {
  start <- function(fixed, correlation, power) list(fixed = fixed, correlation = correlation, power = power)
  rho <- declared$correlation$start
  moved <- list(start(declared$start, rho, declared$power))
  set.seed(1)
  for (share in c(0.3, 1.5, 0.8)) {
    fixed <- declared$start * (1 + 0.08 * runif(length(declared$start), -1, 1))
    power <- if (!is.null(declared$power)) declared$power * share
    moved <- c(moved, list(start(fixed, if (!is.null(rho)) pmax(pmin(rho * share, 0.9), -0.9), power)))
  }
  moved
}

# A named vector as a JSON object.
object_of <- function(values) as.list(values)
random_of <- function(psi) {
  list(
    names = I(colnames(psi)), covariance = unname(psi), sd = object_of(setNames(sqrt(diag(psi)), colnames(psi))),
    correlation = unname(cov2cor(psi))
  )
}

# The estimates on their natural scales, psi and effects by level, outermost first.
estimates_of <- function(fit, declared) {
  structure <- fit$modelStruct
  levels_of <- names(declared$random)
  psi <- lapply(levels_of, function(level) {
    matrix <- as.matrix(structure$reStruct[[level]]) * fit$sigma^2
    dimnames(matrix) <- rep(list(Names(structure$reStruct[[level]])), 2)
    matrix
  })
  effects <- lapply(levels_of, function(level) as.matrix(fit$coefficients$random[[level]]))
  list(
    fixef = fixef(fit), ranef = setNames(effects, levels_of), psi = setNames(psi, levels_of), sigma = fit$sigma,
    correlation = if (!is.null(structure$corStruct)) coef(structure$corStruct, unconstrained = FALSE),
    power = if (!is.null(structure$varStruct)) coef(structure$varStruct, unconstrained = FALSE)
  )
}

# Effects of one level, nine digits.
effects_of <- function(b) c(list(groups = I(rownames(b))), lapply(as.data.frame(b), function(column) I(signif(column, 9))))

# Effects without variance: what a standard deviation near zero is, nlme cannot tell from zero.
zero_variances <- function(estimates) {
  unlist(lapply(names(estimates$psi), function(level) {
    sds <- sqrt(diag(estimates$psi[[level]]))
    spread <- apply(abs(estimates$ranef[[level]]), 2, max)
    names(sds)[spread < SMALLEST * sds]
  }))
}

# Why a fit is not to be trusted, in `start` for other starts and `point` for the point itself; empty where it is.
# `others` are log-likelihoods from other starts, NA where there is no fit, or NULL where there were none.
doubts_of <- function(estimates, log_likelihood, others, check, further) {
  far <- others[which.max(abs(others - log_likelihood))] - log_likelihood
  above <- function(value, limit, text) if (!isTRUE(abs(value) <= limit)) sprintf(text, value)
  zero <- zero_variances(estimates)
  list(
    start = if (length(others)) c(
      if (sum(!is.na(others)) < 2) sprintf("only %d of %d other starts gave a fit", sum(!is.na(others)), length(others)),
      if (length(far)) above(far, AGREEMENT, "the log-likelihood of another start differs by %+.2g")
    ),
    point = c(
      further,
      above(check$log_likelihood - log_likelihood, RECOMPUTED, "the linearised log-likelihood at the estimates differs by %.2g"),
      above(check$gain, GAIN, "a Newton step in the covariance parameters gains %.2g"),
      above(check$covariance_step, STEP, "covariance parameters %.2g standard errors off"),
      above(check$fixed_step, STEP, "fixed effects %.2g standard errors off"),
      above(check$random_step, STEP, "random effects %.2g standard deviations off"),
      if (length(zero)) paste("variance near zero:", paste(zero, collapse = ", "))
    )
  )
}

# The row of one fit; `result` has estimates, logLik, df and se; `long` rows come with the effects and nlme's approximate standard
# errors of the covariance parameters.
row_of <- function(declared, table, method, program, result, others, starts, long, further = NULL, ...) {
  log_likelihood <- result$logLik
  estimates <- result$estimates
  check <- check_fixed_point(declared, table, estimates, method)$check
  doubts <- doubts_of(estimates, log_likelihood, others, check, further)
  reasons <- c(doubts$point, doubts$start)
  start <- starts[[1]]
  approximate <- is.matrix(result$apVar)
  list(
    id = paste(c(declared$name, method, if (program != "nlme") "alternation"), collapse = "_"), dataset = declared$table,
    model = declared$name, method = method, program = program, r_code = text_of(call_of(declared)), curve = curve_text(declared),
    psi_structure = declared$psi, start = object_of(setNames(start$fixed, names(estimates$fixef))),
    start_correlation = start$correlation, start_power = start$power, status = "converged",
    trusted = length(reasons) == 0, fixed_point = length(doubts$point) == 0,
    reason = if (length(reasons)) paste(reasons, collapse = "; "),
    fixef = object_of(estimates$fixef), se = object_of(setNames(result$se, names(estimates$fixef))),
    random = lapply(estimates$psi, random_of), sigma = estimates$sigma,
    correlation = if (!is.null(declared$correlation)) {
      list(
        class = declared$correlation$class, formula = text_of(declared$correlation$form),
        parameters = object_of(estimates$correlation)
      )
    },
    variance_function = if (!is.null(declared$power)) {
      list(class = "varPower", formula = "~fitted(.)", parameters = list(power = unname(estimates$power)))
    },
    logLik = log_likelihood, df = result$df, nobs = nrow(table),
    ngroups = object_of(vapply(estimates$ranef, nrow, 0L)),
    ranef = if (long) lapply(estimates$ranef, effects_of),
    apVar = if (long && approximate) {
      list(parameters = object_of(attr(result$apVar, "Pars")), se = I(signif(sqrt(diag(unclass(result$apVar))), 7)))
    },
    other_starts = if (length(others)) I(others), check = check, ...
  )
}

# The fits of a model by one method: by nlme, and by the alternation where the method is REML or nlme's fit is not to be trusted.
run <- function(declared, method) {
  groups <- unique(c(names(declared$random), correlation_groups(declared)))
  table <- read_table(declared$table, groups, all.vars(declared$model[[2]]), root)
  starts <- starts_of(declared)
  before <- proc.time()[[3]]
  seconds <- function() round(proc.time()[[3]] - before, 2)
  value <- function(fit) if (is.null(fit)) NA_real_ else as.numeric(logLik(fit))
  failed <- function(program, reason) {
    id <- paste(c(declared$name, method, if (program != "nlme") "alternation"), collapse = "_")
    list(
      id = id, dataset = declared$table, model = declared$name, method = method, program = program, nobs = nrow(table),
      r_code = text_of(call_of(declared)), status = "failed", trusted = FALSE, fixed_point = FALSE, reason = reason
    )
  }

  reached <- fit_by(declared, table, method, starts[[1]])
  if (is.null(reached$fit)) {
    rows <- list(failed("nlme", tail(reached$failures, 1)))
  } else {
    # Other starts of nlme's REML show nothing: it is no fixed point (correlated_alternation.R).
    others <- if (method == "ML") vapply(starts[-1], function(start) value(fit_by(declared, table, method, start)$fit), 0)
    result <- list(
      estimates = estimates_of(reached$fit, declared), logLik = value(reached$fit), df = attr(logLik(reached$fit), "df"),
      se = sqrt(diag(reached$fit$varFix)), apVar = reached$fit$apVar
    )
    rows <- list(row_of(
      declared, table, method, "nlme", result, others, starts, method == "ML",
      if (length(reached$warnings)) paste("warned:", paste(reached$warnings, collapse = "; ")),
      n_outer_iterations = reached$fit$numIter, tolerance = reached$limits[1], pnlsTol = reached$limits[2],
      seconds_of_fit = round(reached$seconds, 3), seconds = seconds()
    ))
    if (method == "ML" && rows[[1]]$trusted) {
      return(rows)
    }
  }

  # From the starts by lme; where that does not converge, from where nlme ends from the same start.
  attempt <- function(start, fit_of) {
    tryCatch(alternate(declared, table, method, start$fixed), error = function(e) {
      fit <- fit_of()
      if (is.null(fit)) {
        return(list(error = conditionMessage(e)))
      }
      tryCatch(
        alternate(declared, table, method, unname(fixef(fit)), estimates_of(fit, declared)),
        error = function(e) list(error = conditionMessage(e))
      )
    })
  }
  first <- attempt(starts[[1]], function() reached$fit)
  if (!is.null(first$error)) {
    return(c(rows, list(failed("alternation", first$error))))
  }
  others <- vapply(starts[-1], function(start) {
    attempt(start, function() fit_by(declared, table, method, start)$fit)$logLik %||% NA_real_
  }, 0)
  row <- row_of(
    declared, table, method, "alternation", first, others, starts, TRUE,
    if (abs(first$by_lme - first$logLik) > RECOMPUTED) sprintf("lme gives %.8g for the last linear model", first$by_lme),
    logLik_lme = first$by_lme, n_outer_iterations = object_of(first$iterations), seconds = seconds()
  )
  c(rows, list(row))
}

`%||%` <- function(value, otherwise) if (is.null(value)) otherwise else value
correlation_groups <- function(declared) if (!is.null(declared$correlation)) all.vars(declared$correlation$form[[2]][[3]])
curve_text <- function(declared) {
  name <- as.character(declared$model[[3]][[1]])
  if (name %in% names(curves)) text_of(curves[[name]][[2]]) else paste("R's", name)
}

# Lines of the results for people: of a fit, and of a model with its best fits by ML and REML.
number <- function(value, digits = 3) {
  if (length(value)) paste(formatC(unlist(value), digits = digits, format = "f"), collapse = ", ") else "–"
}
value_of <- function(row) if (is.null(row$logLik)) "–" else formatC(row$logLik, digits = 5, format = "f", big.mark = ",")
line_of <- function(row) {
  sprintf(
    "%s: %s, gain %.0e, %s", row$id, value_of(row), if (is.numeric(row$check$gain)) row$check$gain else NA,
    if (row$trusted) "trusted" else row$reason
  )
}
best_of <- function(rows, method) {
  found <- Filter(function(row) row$method == method, rows)
  found[order(-vapply(found, function(row) row$trusted, NA), -vapply(found, function(row) row$fixed_point, NA))][[1]]
}
model_line <- function(rows) {
  best <- lapply(c("ML", "REML"), function(method) best_of(rows, method))
  by_nlme <- Filter(function(row) row$method == "REML" && row$program == "nlme", rows)[[1]]
  short <- if (is.null(by_nlme$logLik) || is.null(best[[2]]$logLik)) "–" else sprintf("%.4f", best[[2]]$logLik - by_nlme$logLik)
  cells <- unlist(lapply(best, function(row) {
    by <- if (!row$trusted) "not trusted" else if (row$program == "nlme") "nlme" else "alternation"
    c(number(row$correlation$parameters), value_of(row), by)
  }))
  first <- best[[1]]
  groups <- paste(unlist(first$ngroups), collapse = ", ")
  sprintf(
    "| %s | %s | %d | %s | %s | %s | %s |", first$model, if (length(groups)) groups else "–", first$nobs,
    first$correlation$class %||% "–", number(first$variance_function$parameters), paste(cells, collapse = " | "), short
  )
}

asked <- commandArgs(trailingOnly = TRUE)
existing <- if (file.exists(path)) jsonlite::fromJSON(path, simplifyVector = FALSE)$fits else list()
if ("--table" %in% asked) {
  cat("| model | groups | rows | correlation | power | ML | log L | by | REML | log L | by | nlme's REML below |\n")
  cat("| :-- | --: | --: | :-- | --: | --: | --: | :-- | --: | --: | :-- | --: |\n")
  names_of <- vapply(existing, function(row) row$model, "")
  for (name in unique(names_of)) cat(model_line(existing[names_of == name]), "\n", sep = "")
  for (row in existing) if (!row$trusted && "--failures" %in% asked) cat(line_of(row), "\n", sep = "")
  quit()
}
only <- if ("--only" %in% asked) asked[which(asked == "--only") + 1] else "."

write_results <- function(fits) {
  about <- list(
    date = format(Sys.time(), "%Y-%m-%dT%H:%M:%S+00:00", tz = "UTC"), r = R.version.string,
    nlme = as.character(packageVersion("nlme")),
    control = control_of(c(NA, NA))[c("maxIter", "pnlsMaxIter", "msMaxIter", "eval.max", "rel.tol", "x.tol", "minScale", "opt")],
    trusted = list(other_starts = AGREEMENT, recomputed = RECOMPUTED, gain = GAIN, step = STEP, smallest = SMALLEST)
  )
  # One line a fit, so that differences between versions can be read.
  json <- function(value) as.character(jsonlite::toJSON(value, auto_unbox = TRUE, digits = I(12), na = "null", null = "null"))
  lines <- paste(vapply(fits, json, ""), collapse = ",\n")
  writeLines(paste0('{\n"about": ', json(about), ',\n"fits": [\n', lines, "\n]\n}"), path)
}

fits <- existing
for (declared in models) {
  if (!grepl(only, declared$name)) next
  rows <- c(run(declared, "ML"), run(declared, "REML"))
  fits <- c(Filter(function(row) row$model != declared$name, fits), rows)
  names_of <- vapply(models, function(declared) declared$name, "")
  fits <- fits[order(match(vapply(fits, function(row) row$model, ""), names_of))]
  write_results(fits)
  cat(vapply(rows, line_of, ""), sep = "\n")
}

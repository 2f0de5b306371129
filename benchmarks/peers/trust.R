# R's programs on the hard fits: a request a line (a fit as JSON with `program`), an answer a line, as trust_tables/ours.py.
#   nlme: nlme for curves, lme for lines; lme4: nlmer, lmer, glmer with 15 nodes; clmm of ordinal with 15 nodes.
#   A request with `versions`, names of packages, is answered with their versions and that of R.
# Starts are those of the request where the program takes them. Converged: no error, no convergence warning, its flag.
suppressPackageStartupMessages({
  library(nlme)
  library(jsonlite)
})

curves <- list(
  oral = ~ dose * exp(ka) / (exp(vol) * (exp(ka) - exp(cl - vol))) * (exp(-exp(cl - vol) * t) - exp(-exp(ka) * t)),
  oral_fraction = ~ exp(frac) * dose * exp(ka) / (exp(vol) * (exp(ka) - exp(cl - vol))) *
    (exp(-exp(cl - vol) * t) - exp(-exp(ka) * t)),
  biexponential = ~ exp(a1) * exp(-exp(k1) * t) + exp(a2) * exp(-exp(k2) * t),
  logistic = ~ asym / (1 + exp((mid - t) / scale)),
  emax = ~ e0 + exp(top) * t / (exp(half) + t),
  circadian = ~ level + swing * cos(2 * pi * (t - peak) / 24),
  asymptotic = ~ asym + (start - asym) * exp(-exp(rate) * t)
)
column <- c(base = "1", slope = "t", other = "u", cross = "w")
curve_function <- hard_table <- NULL

# One column of the request: numbers with NA, or labels.
column_of <- function(values) unlist(lapply(values, function(v) if (is.null(v)) NA else v))

# psi of a fit in the order of `random`.
ordered_psi <- function(psi, random, names) unname(psi[match(names, rownames(psi)), match(names, rownames(psi)), drop = FALSE])

effects_of <- function(request) unname(ifelse(column[request$random] == "1", "(Intercept)", column[request$random]))

by_nlme <- function(request, table) {
  parameters <- request$parameters
  random <- request$random
  form <- as.formula(paste(paste(random, collapse = " + "), "~ 1"))
  relative <- diag((request$sds / request$sigma)^2, length(random))
  pattern <- if (request$psi == "diagonal") pdDiag(relative, form) else pdLogChol(relative, form)
  call <- as.formula(paste("y ~ curve_function(", paste(c(request$x, parameters), collapse = ", "), ")"))
  fit <- nlme(
    call, data = table, fixed = as.formula(paste(paste(parameters, collapse = " + "), "~ 1")),
    random = list(g = pattern), start = setNames(request$beta, parameters), method = "ML", na.action = na.omit,
    control = nlmeControl(maxIter = 200, pnlsMaxIter = 50, msMaxIter = 200)
  )
  psi <- as.matrix(fit$modelStruct$reStruct[[1]]) * fit$sigma^2
  psi <- psi[match(random, sub("[.].*", "", rownames(psi))), match(random, sub("[.].*", "", rownames(psi))), drop = FALSE]
  list(beta = as.numeric(fixef(fit)[parameters]), psi = unname(psi), sigma = fit$sigma, converged = TRUE,
       log_likelihood = as.numeric(logLik(fit)))
}

by_lme <- function(request, table) {
  fixed <- as.formula(paste("y ~", paste(column[request$parameters], collapse = " + ")))
  if (is.null(request$nested)) {
    form <- as.formula(paste("~", paste(column[request$random], collapse = " + ")))
    random <- list(g = if (request$psi == "diagonal") pdDiag(form) else pdLogChol(form))
  } else {
    random <- list(g = ~1, h = ~1)
  }
  fit <- lme(
    fixed, data = table, random = random, method = "ML", na.action = na.omit,
    control = lmeControl(maxIter = 200, msMaxIter = 200)
  )
  psi <- as.matrix(fit$modelStruct$reStruct$g) * fit$sigma^2
  inner <- if (is.null(request$nested)) NA else sqrt(as.matrix(fit$modelStruct$reStruct$h)[1, 1]) * fit$sigma
  list(beta = as.numeric(fixef(fit)), psi = ordered_psi(psi, request$random, effects_of(request)), sigma = fit$sigma,
       inner = inner, converged = TRUE, log_likelihood = as.numeric(logLik(fit)))
}

bars_of <- function(request, of) {
  effects <- of[request$random]
  if (!is.null(request$nested)) return("(1 | g / h)")
  if (request$psi == "diagonal") return(paste(sprintf("(0 + %s | g)", effects), collapse = " + "))
  sprintf("(0 + %s | g)", paste(effects, collapse = " + "))
}

# The blocks of VarCorr as one matrix in the order `names`.
lme4_psi <- function(fit, names) {
  psi <- matrix(0, length(names), length(names), dimnames = list(names, names))
  for (block in VarCorr(fit)) {
    known <- intersect(rownames(block), names)
    psi[known, known] <- as.matrix(block)[known, known]
  }
  unname(psi)
}

by_lme4 <- function(request, table) {
  random <- request$random
  relative <- request$sds / (if (is.null(request$sigma)) 1 else request$sigma)
  theta <- if (request$psi == "diagonal") relative else diag(relative, length(random))[lower.tri(diag(length(random)), diag = TRUE)]
  if (request$family == "gaussian" && !request$linear) {
    parameters <- request$parameters
    text <- paste("y ~ curve_function(", paste(c(request$x, parameters), collapse = ", "), ") ~",
                  bars_of(request, setNames(parameters, parameters)))
    start <- list(nlpars = setNames(request$beta, parameters), theta = theta)
    fit <- do.call(lme4::nlmer, list(as.formula(text), data = quote(hard_table), start = start, nAGQ = 1L,
                                     na.action = quote(na.omit), control = lme4::nlmerControl(optimizer = "bobyqa")))
    psi <- lme4_psi(fit, random)
    inner <- NA
  } else {
    bars <- if (is.null(request$nested)) {
      if (request$psi == "diagonal" && length(random) > 1) "(t || g)" else
        sprintf("(%s | g)", paste(column[random], collapse = " + "))
    } else "(1 | g / h)"
    formula <- as.formula(paste("y ~", paste(c(column[request$parameters], bars), collapse = " + ")))
    if (request$family == "gaussian") {
      start <- if (is.null(request$nested)) list(theta = theta)
      fit <- lme4::lmer(formula, table, REML = FALSE, start = start)
    } else {
      family <- if (request$family == "poisson") poisson() else binomial()
      nodes <- if (length(random) == 1) 15L else 1L
      fit <- lme4::glmer(formula, table, family = family, nAGQ = nodes,
                         start = list(theta = theta, fixef = as.numeric(request$beta)))
    }
    blocks <- VarCorr(fit)
    names <- effects_of(request)
    inner <- NA
    if (is.null(request$nested)) psi <- lme4_psi(fit, names) else {
      psi <- matrix(blocks$g[1, 1])
      inner <- sqrt(blocks[["h:g"]][1, 1])
    }
  }
  said <- as.character(unlist(fit@optinfo$conv$lme4$messages))
  warned <<- c(warned, said)
  failed <- any(grepl("failed to converge|unable to evaluate|degenerate", said))
  sigma <- if (request$family == "gaussian") sigma(fit) else NA
  beta <- lme4::fixef(fit)
  if (length(beta) < length(request$parameters)) warned <<- c(warned, "fixed-effect model matrix is rank deficient")
  beta <- c(as.numeric(beta), rep(0, length(request$parameters) - length(beta)))
  list(beta = beta, psi = psi, sigma = sigma, inner = inner,
       converged = !failed && isTRUE(all(fit@optinfo$conv$opt == 0)), log_likelihood = as.numeric(logLik(fit)))
}

by_clmm <- function(request, table) {
  table <- table[!is.na(table$y), ]
  table$y <- factor(table$y, ordered = TRUE)
  fit <- ordinal::clmm(y ~ t + (1 | g), data = table, nAGQ = 15)
  psi <- matrix(as.numeric(ordinal::VarCorr(fit)$g))
  list(beta = c(0, as.numeric(fit$beta), as.numeric(fit$alpha)), psi = psi, sigma = NA,
       converged = fit$optRes$convergence == 0, log_likelihood = as.numeric(logLik(fit)))
}

not_converged <- "failed to converge|did not converge|convergence failure|no convergence|Iteration limit|false convergence|maximum number of"

answer <- function(request) {
  table <- as.data.frame(lapply(request$columns, column_of))
  table$g <- factor(table$g)
  if (!is.null(table$h)) table$h <- factor(table$h)
  if (request$curve %in% names(curves)) {
    arguments <- c(request$x, request$parameters)
    shell <- as.function(c(setNames(rep(alist(x = ), length(arguments)), arguments), quote({})))
    curve_function <<- deriv(curves[[request$curve]], request$parameters, shell)
  }
  hard_table <<- table
  fitter <- switch(request$program, nlme = if (request$linear) by_lme else by_nlme, lme4 = by_lme4, clmm = by_clmm)
  withCallingHandlers(fitter(request, table), warning = function(w) {
    warned <<- c(warned, conditionMessage(w))
    invokeRestart("muffleWarning")
  }, message = function(m) {
    warned <<- c(warned, conditionMessage(m))
    invokeRestart("muffleMessage")
  })
}

versions_of <- function(packages) {
  found <- lapply(setNames(packages, packages), function(name) {
    tryCatch(as.character(packageVersion(name)), error = function(e) NULL)
  })
  c(list(R = paste(R.version$major, R.version$minor, sep = ".")), Filter(Negate(is.null), found))
}

input <- file("stdin", "r")
while (length(line <- readLines(input, 1)) > 0) {
  warned <- character()
  request <- fromJSON(line, simplifyMatrix = FALSE)
  if (!is.null(request$versions)) {
    cat("ANSWER ", toJSON(list(versions = versions_of(request$versions)), auto_unbox = TRUE), "\n", sep = "")
    flush(stdout())
    next
  }
  out <- tryCatch(answer(request), error = function(e) list(error = conditionMessage(e)))
  if (any(grepl(not_converged, warned))) out$converged <- FALSE
  out$messages <- I(unique(substr(trimws(as.character(warned)), 1, 300)))
  cat("ANSWER ", toJSON(out, auto_unbox = TRUE, digits = NA, na = "null", null = "null", force = TRUE), "\n", sep = "")
  flush(stdout())
}

# The linearised log-likelihood of a nonlinear mixed model with correlated residuals, by dense matrices and no code of nlme's,
# and what is left to gain from a fit's estimates. With f expanded at (beta, b), X and Z its derivatives, and residual
# standard deviations sigma |f|^power held at the expansion, the working response w = y - f + X beta + Z b is
#   w ~ N(X beta, Z Psi Z' + sigma^2 D R D),   by REML the part of it that does not depend on beta.
# At a fixed point of Lindstrom and Bates' (1990) alternation Psi, sigma, the correlation and the power maximise it, generalised
# least squares gives beta again, and the best linear predictors give b again.

LOG_2PI <- log(2 * pi)

# Derivatives of the curve by its own parameters, row by row, by central differences.
curve_parts <- function(curve, table, phi) {
  value <- function(at) as.numeric(eval(curve, c(as.list(table), as.list(at))))
  gradient <- vapply(names(phi), function(name) {
    step <- 1e-5 * (abs(phi[[name]]) + max(abs(phi[[name]])) + 1e-3)
    up <- down <- phi
    up[[name]] <- phi[[name]] + step
    down[[name]] <- phi[[name]] - step
    (value(up) - value(down)) / (up[[name]] - down[[name]])
  }, numeric(nrow(table)))
  list(value = value(phi), gradient = gradient)
}

# The designs of the fixed effects, or of the effects of one level: for each parameter its columns.
designs_of <- function(formulas, table) lapply(formulas, function(formula) model.matrix(formula, table))

# A correlation matrix of rows of one group from the parameters on their natural scale.
correlation_of <- function(class, values, t) {
  lags <- abs(outer(t, t, "-"))
  if (class == "corARMA") {
    acf <- ARMAacf(values[1], values[2], lag.max = max(lags, 1))
    return(matrix(acf[lags + 1], nrow(lags)))
  }
  rho <- values[1]
  if (rho < 0) (-1)^lags * abs(rho)^lags else rho^lags
}

# Covariance matrices of the levels, and the unbounded vector they come from: log sds, or a log-Cholesky factor.
pack_psi <- function(psi, structure) {
  if (structure == "diagonal") {
    return(0.5 * log(diag(psi)))
  }
  factor <- t(chol(psi))
  c(log(diag(factor)), factor[lower.tri(factor)])
}
unpack_psi <- function(values, q, structure) {
  if (structure == "diagonal") {
    return(diag(exp(2 * values), q))
  }
  factor <- diag(exp(values[1:q]), q)
  factor[lower.tri(factor)] <- values[-(1:q)]
  tcrossprod(factor)
}

# Gradient and Hessian by central differences; units of the vector are logs and the like.
differences <- function(f, at, step = 1e-3) {
  n <- length(at)
  shift <- function(i, j, a, b) {
    x <- at
    x[i] <- x[i] + a
    x[j] <- x[j] + b
    f(x)
  }
  gradient <- vapply(seq_len(n), function(i) {
    one <- shift(i, i, step, 0) - shift(i, i, -step, 0)
    two <- shift(i, i, 2 * step, 0) - shift(i, i, -2 * step, 0)
    (8 * one - two) / (12 * step)
  }, 0)
  hessian <- matrix(0, n, n)
  centre <- f(at)
  for (i in seq_len(n)) {
    hessian[i, i] <- (shift(i, i, step, 0) - 2 * centre + shift(i, i, -step, 0)) / step^2
    for (j in seq_len(i - 1)) {
      four <- shift(i, j, step, step) - shift(i, j, step, -step) - shift(i, j, -step, step) + shift(i, j, -step, -step)
      hessian[i, j] <- hessian[j, i] <- four / (4 * step^2)
    }
  }
  list(gradient = gradient, hessian = hessian)
}

# The linear mixed model of one expansion: x and z (by level), the working response w, the curve f; the groups of the levels as
# keys, and the effects of every row. `effects` are matrices by level, outermost first, with a row a group.
linearise <- function(declared, table, beta, effects) {
  levels_of <- names(declared$random)
  keys <- lapply(seq_along(levels_of), function(l) labels_of(table, levels_of[1:l]))
  fixed_designs <- designs_of(declared$fixed, table)
  random_designs <- lapply(declared$random, designs_of, table = table)

  # The curve's own parameters in every row.
  sizes <- vapply(fixed_designs, ncol, 0L)
  parts <- split(unname(beta), rep(factor(names(sizes), names(sizes)), sizes))
  phi <- Map(function(design, part) drop(design %*% part), fixed_designs, parts)
  by_row <- lapply(seq_along(levels_of), function(l) effects[[l]][keys[[l]], , drop = FALSE])
  for (l in seq_along(levels_of)) {
    used <- 0
    for (name in names(random_designs[[l]])) {
      design <- random_designs[[l]][[name]]
      phi[[name]] <- phi[[name]] + rowSums(design * by_row[[l]][, used + seq_len(ncol(design)), drop = FALSE])
      used <- used + ncol(design)
    }
  }
  expanded <- curve_parts(declared$model[[3]], table, phi)
  columns <- function(designs) {
    do.call(cbind, lapply(names(designs), function(name) designs[[name]] * expanded$gradient[, name]))
  }
  x <- columns(fixed_designs)
  z <- lapply(random_designs, columns)
  w <- table[[all.vars(declared$model[[2]])]] - expanded$value + drop(x %*% beta)
  for (l in seq_along(z)) w <- w + rowSums(z[[l]] * by_row[[l]])
  list(x = x, z = z, w = w, f = abs(expanded$value), keys = keys, effects = by_row)
}

# `declared`: one of correlated_cases.R; `estimates`: fixef, ranef (list of matrices by level), psi (list by level), sigma,
# correlation and power (natural scale, or NULL). Returns `check`: the log-likelihood of the last linearisation at the estimates;
# the gain of a Newton step in the covariance parameters and its largest component in standard errors; the largest change of a
# fixed effect in its standard errors, and of a random effect in its standard deviations, by a step of the linear mixed model;
# further the standard errors `se` of the fixed effects, and `answer`, the estimates after these steps.
check_fixed_point <- function(declared, table, estimates, method) {
  linear <- linearise(declared, table, estimates$fixef, estimates$ranef)
  x <- linear$x
  z <- linear$z
  keys <- linear$keys
  effects <- linear$effects

  # Rows by outermost group; within them, pairs of rows of one group of each level and of one group of the correlation.
  same <- function(key, rows) outer(key[rows], key[rows], "==")
  if (!is.null(declared$correlation)) {
    by <- all.vars(declared$correlation$form[[2]][[3]])
    inner <- labels_of(table, by)
    covariate <- declared$correlation$form[[2]][[2]]
    times <- if (identical(covariate, 1)) ave(seq_len(nrow(table)), inner, FUN = seq_along) else eval(covariate, table)
  }
  blocks <- lapply(split(seq_len(nrow(table)), factor(keys[[1]], unique(keys[[1]]))), function(rows) {
    list(
      rows = rows, x = x[rows, , drop = FALSE], z = lapply(z, function(a) a[rows, , drop = FALSE]), w = linear$w[rows],
      f = linear$f[rows], masks = lapply(keys, same, rows = rows),
      inner = if (!is.null(declared$correlation)) lapply(unique(inner[rows]), function(k) which(inner[rows] == k)),
      times = if (is.null(declared$correlation)) NULL else times[rows]
    )
  })

  # The vector of covariance parameters.
  q <- vapply(estimates$psi, nrow, 0L)
  class <- declared$correlation$class
  to_line <- function(values) if (class == "corCAR1") qlogis(values) else atanh(values)
  from_line <- function(values) if (class == "corCAR1") plogis(values) else tanh(values)
  packed <- lapply(estimates$psi, pack_psi, structure = declared$psi)
  vector_of <- c(
    unlist(packed, use.names = FALSE), log(estimates$sigma), if (!is.null(class)) to_line(unname(estimates$correlation)),
    unname(estimates$power)
  )
  lengths_of <- lengths(packed)
  read <- function(theta) {
    ends <- cumsum(lengths_of)
    psi <- Map(function(end, n, k) unpack_psi(theta[(end - n + 1):end], k, declared$psi), ends, lengths_of, q)
    rest <- theta[-seq_len(sum(lengths_of))]
    n_correlation <- length(estimates$correlation)
    list(
      psi = psi, sigma = exp(rest[1]), correlation = if (n_correlation) from_line(rest[1 + seq_len(n_correlation)]),
      power = if (is.null(estimates$power)) 0 else rest[length(rest)]
    )
  }
  residual_covariance <- function(block, at) {
    n <- length(block$w)
    r <- diag(n)
    for (rows in block$inner) r[rows, rows] <- correlation_of(class, at$correlation, block$times[rows])
    d <- at$sigma * block$f^at$power
    d * r * rep(d, each = n)
  }
  covariance <- function(block, at) {
    v <- residual_covariance(block, at)
    for (l in seq_along(z)) v <- v + block$masks[[l]] * (block$z[[l]] %*% at$psi[[l]] %*% t(block$z[[l]]))
    v
  }

  whitened <- function(at) {
    logdet <- 0
    stacked <- do.call(rbind, lapply(blocks, function(block) {
      factor <- chol(covariance(block, at))
      logdet <<- logdet + 2 * sum(log(diag(factor)))
      backsolve(factor, cbind(block$x, block$w), transpose = TRUE)
    }))
    p <- ncol(x)
    decomposed <- qr(stacked[, 1:p, drop = FALSE])
    back <- order(decomposed$pivot)
    list(
      logdet = logdet, beta = qr.coef(decomposed, stacked[, p + 1]), rss = sum(qr.resid(decomposed, stacked[, p + 1])^2),
      logdet_x = 2 * sum(log(abs(diag(qr.R(decomposed))))), covariance = chol2inv(qr.R(decomposed))[back, back]
    )
  }
  log_likelihood <- function(theta) {
    solved <- whitened(read(theta))
    restricted <- method == "REML"
    n <- nrow(table) - if (restricted) ncol(x) else 0
    -0.5 * (n * LOG_2PI + solved$logdet + solved$rss + if (restricted) solved$logdet_x else 0)
  }

  # Best linear predictors: for each level a matrix with a row a group.
  predict_effects <- function(at, beta) {
    per_block <- lapply(blocks, function(block) {
      alpha <- solve(covariance(block, at), block$w - block$x %*% beta)
      lapply(seq_along(z), function(l) {
        heads <- which(!duplicated(keys[[l]][block$rows]))
        b <- vapply(heads, function(head) {
          rows <- which(block$masks[[l]][head, ])
          drop(at$psi[[l]] %*% crossprod(block$z[[l]][rows, , drop = FALSE], alpha[rows]))
        }, numeric(q[l]))
        matrix(b, ncol = q[l], byrow = TRUE, dimnames = list(keys[[l]][block$rows][heads], NULL))
      })
    })
    setNames(lapply(seq_along(z), function(l) do.call(rbind, lapply(per_block, `[[`, l))), names(declared$random))
  }

  derivatives <- differences(log_likelihood, vector_of)
  information <- -derivatives$hessian
  positive <- all(eigen(information, symmetric = TRUE, only.values = TRUE)$values > 0)
  step <- if (positive) solve(information, derivatives$gradient) else rep(NA, length(vector_of))
  at <- read(vector_of)
  solved <- whitened(at)
  found <- predict_effects(at, solved$beta)
  standardised <- function(b, now, psi) abs(b[rownames(now), ] - now) / rep(sqrt(diag(psi)), each = nrow(now))
  shifts <- Map(standardised, found, estimates$ranef, at$psi)

  # The linear mixed model's own answer after the step.
  moved <- if (positive) read(vector_of + step) else at
  names(moved$psi) <- names(estimates$psi)
  moved$psi <- Map(function(now, before) `dimnames<-`(now, dimnames(before)), moved$psi, estimates$psi)
  answer <- whitened(moved)
  effects_there <- predict_effects(moved, answer$beta)
  names_like <- function(now, before) if (is.null(before)) NULL else setNames(now, names(before))
  list(
    check = list(
      log_likelihood = log_likelihood(vector_of), gain = sum(step * derivatives$gradient) / 2,
      covariance_step = if (positive) max(abs(step) / sqrt(diag(solve(information)))) else NA,
      fixed_step = max(abs(solved$beta - estimates$fixef) / sqrt(diag(solved$covariance))), random_step = max(unlist(shifts))
    ),
    se = sqrt(diag(solved$covariance)),
    answer = list(
      fixef = setNames(answer$beta, names(estimates$fixef)),
      ranef = Map(function(b, now) `colnames<-`(b, colnames(now)), effects_there, estimates$ranef),
      psi = moved$psi, sigma = moved$sigma, correlation = names_like(moved$correlation, estimates$correlation),
      power = names_like(moved$power, estimates$power)
    )
  )
}

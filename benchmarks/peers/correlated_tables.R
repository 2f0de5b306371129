# Tables of correlated_residuals.R that are not in the shared folder, written to benchmarks/data: simulated ones with their truth
# in truth.json, each from a seed of its own, and Ovary and Soybean as R's nlme holds them.
#   Rscript benchmarks/peers/correlated_tables.R
suppressPackageStartupMessages(library(nlme))
here <- dirname(normalizePath(sub("--file=", "", grep("--file=", commandArgs(FALSE), value = TRUE))))
folder <- file.path(dirname(here), "data")
dir.create(folder, showWarnings = FALSE)
truths <- list()

# A correlation matrix of the times t; phi and theta of ARMA(1, 1), whose lags are integers, or rho to the power of the distance.
correlation_matrix <- function(t, rho = NULL, phi = NULL, theta = 0) {
  lags <- abs(outer(t, t, "-"))
  if (!is.null(rho)) {
    return(if (rho < 0) (-1)^lags * abs(rho)^lags else rho^lags)
  }
  acf <- ARMAacf(phi, theta, lag.max = max(lags, 1))
  matrix(acf[lags + 1], nrow(lags))
}

residuals_of <- function(sd, correlation) sd * drop(crossprod(chol(correlation), rnorm(nrow(correlation))))

normal <- function(n, sd, correlation = 0) {
  psi <- diag(sd, length(sd)) %*% (correlation + diag(1 - correlation, length(sd))) %*% diag(sd, length(sd))
  matrix(rnorm(n * length(sd)), n) %*% chol(psi)
}

# Drops a share of the rows at random, and keeps the truth.
with_gaps <- function(table, share) table[sort(sample(nrow(table), round((1 - share) * nrow(table)))), ]

write_table <- function(name, table, truth) {
  numbers <- vapply(table, is.double, NA)
  table[numbers] <- lapply(table[numbers], signif, digits = 6)
  write.csv(table, file.path(folder, paste0(name, ".csv")), row.names = FALSE, quote = FALSE)
  truths[[name]] <<- truth
}

logistic <- function(t, b, beta) (beta[1] + b[1]) / (1 + exp((beta[2] + b[2] - t) / beta[3]))
oral <- function(dose, t, lke, lka, lcl) {
  dose * exp(lke + lka - lcl) / (exp(lka) - exp(lke)) * (exp(-exp(lke) * t) - exp(-exp(lka) * t))
}

# Logistic growth of 40 subjects at integer times.
logistic_table <- function(seed, times, sd, psi_correlation, sigma, ...) {
  set.seed(seed)
  b <- normal(40, sd, psi_correlation)
  r <- correlation_matrix(times, ...)
  do.call(rbind, lapply(1:40, function(i) {
    data.frame(Subject = i, t = times, y = logistic(times, b[i, ], c(100, 5, 1.3)) + residuals_of(sigma, r))
  }))
}
growth <- list(fixed = list(Asym = 100, xmid = 5, scal = 1.3), sd = list(Asym = 12, xmid = 0.6), sigma = 4)
write_table("sim_logistic_ar1", logistic_table(11, 1:10, c(12, 0.6), 0.4, 4, rho = 0.6), c(growth, correlation = 0.4, rho = 0.6))
write_table(
  "sim_logistic_ar1_gaps", with_gaps(logistic_table(12, 1:12, c(12, 0.6), 0, 4, rho = 0.6), 0.25),
  c(growth, correlation = 0, rho = 0.6, dropped = 0.25)
)
arma <- c(growth, correlation = 0)
write_table(
  "sim_logistic_arma11", logistic_table(13, 1:12, c(12, 0.6), 0, 4, phi = 0.7, theta = 0.4), c(arma, phi = 0.7, theta = 0.4)
)
write_table(
  "sim_logistic_arma11_gaps", with_gaps(logistic_table(14, 1:14, c(12, 0.6), 0, 4, phi = 0.8, theta = -0.4), 0.2),
  c(arma, phi = 0.8, theta = -0.4, dropped = 0.2)
)

# A rising asymptote from an offset; neighbouring residuals of opposite sign.
set.seed(15)
b <- normal(40, c(4, 0.25))
r <- correlation_matrix(1:10, rho = -0.5)
table <- do.call(rbind, lapply(1:40, function(i) {
  mean <- (30 + b[i, 1]) * (1 - exp(-exp(-1 + b[i, 2]) * (1:10 - 0.4)))
  data.frame(Subject = i, t = 1:10, y = mean + residuals_of(1.5, r))
}))
write_table("sim_asympOff_negative_ar1", table, list(
  fixed = list(Asym = 30, lrc = -1, c0 = 0.4), sd = list(Asym = 4, lrc = 0.25), sigma = 1.5, rho = -0.5
))

# Unequal times, 6 to 12 a subject; the asymptote depends on the treatment.
set.seed(16)
b <- normal(40, c(6, 3), -0.4)
table <- do.call(rbind, lapply(1:40, function(i) {
  t <- sort(round(runif(sample(6:12, 1), 0, 10), 2))
  while (anyDuplicated(t)) t <- sort(round(runif(length(t), 0, 10), 2))
  asym <- 50 + (if (i %% 2 == 0) 8 else 0) + b[i, 1]
  mean <- asym + (5 + b[i, 2] - asym) * exp(-exp(-0.9) * t)
  residual <- residuals_of(2, correlation_matrix(t, rho = 0.45))
  data.frame(Subject = i, treat = if (i %% 2 == 0) "drug" else "control", t = t, y = mean + residual)
}))
write_table("sim_asymp_car1", table, list(
  fixed = list(Asym = 50, Asym.treatdrug = 8, R0 = 5, lrc = -0.9), sd = list(Asym = 6, R0 = 3),
  correlation = -0.4, sigma = 2, rho = 0.45
))

# Four-parameter logistic with a power of the mean.
set.seed(17)
b <- normal(40, c(12, 0.5))
r <- correlation_matrix(1:10, rho = 0.5)
table <- do.call(rbind, lapply(1:40, function(i) {
  mean <- 10 + (100 + b[i, 1]) / (1 + exp(5.2 + b[i, 2] - 1:10))
  data.frame(Subject = i, t = 1:10, y = mean + residuals_of(0.25 * mean^0.6, r))
}))
write_table("sim_fpl_power_ar1", table, list(
  fixed = list(A = 10, B = 110, xmid = 5.2, scal = 1), sd = list(B = 12, xmid = 0.5), sigma = 0.25, power = 0.6, rho = 0.5
))

# One-compartment oral data with a power of the mean, at unequal times.
set.seed(18)
b <- normal(40, c(0.4, 0.25))
table <- do.call(rbind, lapply(1:40, function(i) {
  dose <- round(runif(1, 3, 6), 2)
  t <- round(c(0.25, 0.5, 1, 1.5, 2.5, 4, 6, 8, 12, 24) * exp(rnorm(10, 0, 0.05)), 2)
  mean <- oral(dose, t, -2.4, 0.45 + b[i, 1], -3.2 + b[i, 2])
  data.frame(Subject = i, Dose = dose, Time = t, conc = mean + residuals_of(0.2 * mean^0.5, correlation_matrix(t, rho = 0.5)))
}))
write_table("sim_oral_power_car1", table, list(
  fixed = list(lKe = -2.4, lKa = 0.45, lCl = -3.2), sd = list(lKa = 0.4, lCl = 0.25), sigma = 0.2, power = 0.5, rho = 0.5
))

# Two exponentials after a bolus.
set.seed(19)
b <- normal(30, c(3, 1.5))
times <- c(0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12)
r <- correlation_matrix(times, rho = 0.5)
table <- do.call(rbind, lapply(1:30, function(i) {
  mean <- (20 + b[i, 1]) * exp(-exp(0.9) * times) + (8 + b[i, 2]) * exp(-exp(-1.6) * times)
  data.frame(Subject = i, Time = times, conc = mean + residuals_of(0.5, r))
}))
write_table("sim_biexp_car1", table, list(
  fixed = list(A1 = 20, lrc1 = 0.9, A2 = 8, lrc2 = -1.6), sd = list(A1 = 3, A2 = 1.5), sigma = 0.5, rho = 0.5
))

# Occasions in subjects: logistic growth at integer times.
nested_growth <- function(seed) {
  set.seed(seed)
  b <- normal(20, c(12, 0.6))
  r <- correlation_matrix(1:9, rho = 0.5)
  do.call(rbind, lapply(1:20, function(i) {
    do.call(rbind, lapply(1:3, function(j) {
      y <- logistic(1:9, b[i, ] + c(rnorm(1, 0, 7), 0), c(100, 5, 1.3)) + residuals_of(3, r)
      data.frame(Subject = i, Occasion = j, t = 1:9, y = y)
    }))
  }))
}
truth <- list(
  fixed = growth$fixed, sd = list(Subject = list(Asym = 12, xmid = 0.6), Occasion = list(Asym = 7)), sigma = 3, rho = 0.5
)
write_table("sim_nested_logistic", nested_growth(20), truth)
write_table("sim_nested_logistic_gaps", with_gaps(nested_growth(21), 0.2), c(truth, dropped = 0.2))

# Occasions in subjects: one-compartment oral data, with a constant sd and with a power of the mean.
nested_oral <- function(seed, sigma, power) {
  set.seed(seed)
  b <- normal(20, c(0.4, 0.3))
  do.call(rbind, lapply(1:20, function(i) {
    dose <- round(runif(1, 3, 6), 2)
    do.call(rbind, lapply(1:3, function(j) {
      t <- round(c(0.25, 0.5, 1, 2, 3.5, 5, 7, 9, 12) * exp(rnorm(9, 0, 0.05)), 2)
      mean <- oral(dose, t, -2.4, 0.45 + b[i, 1], -3.2 + b[i, 2] + rnorm(1, 0, 0.2))
      residual <- residuals_of(sigma * mean^power, correlation_matrix(t, rho = 0.5))
      data.frame(Subject = i, Occasion = j, Dose = dose, Time = t, conc = mean + residual)
    }))
  }))
}
truth <- list(
  fixed = list(lKe = -2.4, lKa = 0.45, lCl = -3.2), sd = list(Subject = list(lKa = 0.4, lCl = 0.3), Occasion = list(lCl = 0.2))
)
write_table("sim_nested_oral", nested_oral(22, 0.5, 0), c(truth, sigma = 0.5, rho = 0.5))
write_table("sim_nested_oral_power", nested_oral(23, 0.2, 0.5), c(truth, sigma = 0.2, power = 0.5, rho = 0.5))

write(jsonlite::toJSON(truths, auto_unbox = TRUE, pretty = TRUE), file.path(folder, "truth.json"))

# Row order is R's; labels of groups are text.
for (name in c("Ovary", "Soybean")) {
  table <- as.data.frame(get(name))
  numbers <- vapply(table, is.double, NA)
  table[numbers] <- lapply(table[numbers], signif, digits = 12)
  columns <- if (name == "Ovary") c("Mare", "Time", "follicles") else c("Plot", "Variety", "Year", "Time", "weight")
  write.csv(table[columns], file.path(folder, paste0(name, ".csv")), row.names = FALSE, quote = FALSE)
}

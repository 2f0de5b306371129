# Parts shared by the peers in R: the model with its analytic gradient, the table, the start values and the JSON line.
#   Rscript PEER.R DATA.csv diagonal|full KA CL VOL [OPTIMISER|plain|twice]
# DATA.csv has columns Subject, Time, Dose (mg), conc. The three numbers are the starting fixed effects on the natural
# scale. The last line of the output is one JSON object; seconds are of the fit only, without starting R, loading the package and reading the table.

arguments <- commandArgs(trailingOnly = TRUE)
stopifnot(length(arguments) >= 5, arguments[2] %in% c("diagonal", "full"))
psi_structure <- arguments[2]
starts <- log(as.numeric(arguments[3:5]))
names(starts) <- c("lka", "lcl", "lvol")
optimiser <- if (length(arguments) > 5) arguments[6] else "default"

starting <- proc.time()
table <- read.csv(arguments[1])
table$Subject <- factor(table$Subject)

# deriv() attaches the gradient with respect to (lka, lcl, lvol), which nlmer demands and nlme uses when it is there.
concentration <- deriv(
  ~ Dose * exp(lka) / (exp(lvol) * (exp(lka) - exp(lcl - lvol))) *
    (exp(-exp(lcl - lvol) * Time) - exp(-exp(lka) * Time)),
  c("lka", "lcl", "lvol"),
  function(Dose, Time, lka, lcl, lvol) {}
)

# What most users write: the same curve as a plain function, whose gradient nlme takes by finite differences.
if (optimiser == "plain") {
  concentration <- function(Dose, Time, lka, lcl, lvol) {
    ka <- exp(lka)
    vol <- exp(lvol)
    ke <- exp(lcl) / vol
    Dose * ka / (vol * (ka - ke)) * (exp(-ke * Time) - exp(-ka * Time))
  }
}

# Seconds of user and system time, and of wall time, between two readings of proc.time().
seconds_between <- function(before, after) {
  difference <- unclass(after) - unclass(before)
  list(cpu = sum(difference[c(1, 2, 4, 5)], na.rm = TRUE), wall = difference[[3]])
}

# Run `fitter()`, which returns a fit; `read(fit)` returns its estimates. Print everything as one line of JSON.
report <- function(program, fitter, read) {
  loading <- seconds_between(starting, proc.time())
  warned <- character()
  before <- proc.time()
  fit <- tryCatch(
    withCallingHandlers(fitter(), warning = function(w) {
      warned <<- c(warned, conditionMessage(w))
      invokeRestart("muffleWarning")
    }),
    error = identity
  )
  fitting <- seconds_between(before, proc.time())
  out <- list(
    program = program, version = as.character(packageVersion(program)), r = paste(R.version$major, R.version$minor, sep = "."),
    psi_structure = psi_structure, optimiser = optimiser, groups = nlevels(table$Subject), rows = nrow(table),
    loading = loading, fit = fitting, warnings = unique(substr(warned, 1, 300))
  )
  failed <- inherits(fit, "error")
  out$error <- if (failed) conditionMessage(fit) else NA
  if (!failed) out <- c(out, read(fit))
  if (optimiser == "twice" && !failed) { # for the seconds of a fit in a process that has done one
    before <- proc.time()
    fitter()
    out$again <- seconds_between(before, proc.time())
  }
  # I() keeps an empty or single list of warnings a list.
  out$warnings <- I(as.character(out$warnings))
  cat(jsonlite::toJSON(out, auto_unbox = TRUE, digits = 12, na = "null", null = "null"), "\n", sep = "")
}

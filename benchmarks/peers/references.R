# nlme on a reference case: reads what references_worker.py reads, prints what common.R prints. The functions are R's
# own self-starting ones, which bring their analytic gradient.
suppressPackageStartupMessages(library(nlme))
asked <- jsonlite::fromJSON(commandArgs(trailingOnly = TRUE)[1])
curve_of <- c(ssfol = "SSfol", biexp = "SSbiexp", logis = "SSlogis", asympOff = "SSasympOff")[[asked$"function"]]
names_of <- names(asked$starts)
model <- as.formula(sprintf("y ~ %s(%s)", curve_of, paste(c(asked$x, names_of), collapse = ", ")))
fixed <- as.formula(paste(paste(names_of, collapse = " + "), "~ 1"))
varying <- as.formula(paste(paste(asked$random, collapse = " + "), "~ 1"))
pattern <- if (asked$psi == "diagonal") pdDiag(varying) else pdLogChol(varying)
method <- if (asked$method == "lme") "ML" else "REML"

# Fits a table and returns what was reached with its seconds, or why nothing was.
fitted_table <- function(path) {
  table <- read.csv(path)
  table$group <- factor(table$group)
  warned <- character()
  before <- proc.time()
  fit <- tryCatch(
    withCallingHandlers(
      {
        found <- nlme(
          model,
          data = table, fixed = fixed, random = list(group = pattern), start = unlist(asked$starts), method = method
        )
        summary(found)$tTable
        found
      },
      warning = function(w) {
        warned <<- c(warned, conditionMessage(w))
        invokeRestart("muffleWarning")
      }
    ),
    error = identity
  )
  spent <- unclass(proc.time()) - unclass(before)
  seconds <- list(cpu = sum(spent[c(1, 2, 4, 5)], na.rm = TRUE), wall = spent[[3]])
  out <- list(fit = seconds, warnings = I(as.character(unique(substr(warned, 1, 300)))))
  if (inherits(fit, "error")) {
    return(c(out, list(error = conditionMessage(fit))))
  }
  c(out, list(
    converged = TRUE, log_likelihood = as.numeric(logLik(fit)), iterations = fit$numIter,
    beta = as.numeric(fixef(fit)), se_beta = sqrt(diag(fit$varFix)),
    psi = unname(as.matrix(fit$modelStruct$reStruct[[1]]) * fit$sigma^2), sigma = fit$sigma
  ))
}

said <- list(program = "nlme", version = as.character(packageVersion("nlme")))
said$r <- paste(R.version$major, R.version$minor, sep = ".")
said <- c(said, fitted_table(asked$tables[1]))
if (length(asked$tables) > 1) said$second <- fitted_table(asked$tables[2])
cat(jsonlite::toJSON(said, auto_unbox = TRUE, digits = 12, na = "null", null = "null"), "\n", sep = "")

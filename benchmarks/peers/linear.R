# nlme and lme4 on the tables of linear.py, one call after another in one process.
#   Rscript linear.R nlme|lme4 FOLDER CALLS
# A call begins at the data frame and ends with standard errors. A program whose first call takes more than `slow` CPU seconds makes no
# other. The last line of the output is one JSON object.

arguments <- commandArgs(trailingOnly = TRUE)
program <- arguments[1]
folder <- arguments[2]
calls <- as.integer(arguments[3])
slow <- 20
starting <- proc.time()
suppressPackageStartupMessages(library(program, character.only = TRUE))
model <- jsonlite::fromJSON(file.path(folder, "problem.json"))

seconds_between <- function(before, after) {
  difference <- unclass(after) - unclass(before)
  list(cpu = sum(difference[c(1, 2, 4, 5)], na.rm = TRUE), wall = difference[[3]])
}

read_table <- function(call) {
  columns <- lapply(names(model$columns), function(name) {
    values <- readBin(file.path(folder, paste0(call, ".", name, ".f64")), "double", model$rows, endian = "little")
    if (model$columns[[name]] == "integer") as.integer(values) else values
  })
  names(columns) <- names(model$columns)
  as.data.frame(columns)
}

fit_lme4 <- function(table) {
  fit <- lmer(as.formula(model$formula), data = table)
  se <- coef(summary(fit))[1, "Std. Error"]
  messages <- fit@optinfo$conv$lme4$messages
  list(log_likelihood = as.numeric(logLik(fit)), converged = length(messages) == 0, se = se, messages = messages)
}

fit_nlme <- function(table) {
  if (model$crossed) stop("it takes nested factors")
  effects <- paste(c("1", model$slopes), collapse = " + ")
  random <- as.formula(paste("~", effects, "|", paste(model$levels, collapse = "/")))
  correlation <- if (model$ar1) corAR1(form = as.formula(paste("~ 1 |", paste(model$levels, collapse = "/")))) else NULL
  # `random` and `correlation` are evaluated by name in summary and logLik: passed as values.
  fit <- do.call(lme, list(fixed = as.formula(model$fixed), data = table, random = random, correlation = correlation))
  se <- summary(fit)$tTable[1, "Std.Error"]
  list(log_likelihood = as.numeric(logLik(fit)), converged = TRUE, se = se)
}

output <- list(program = program, version = as.character(packageVersion(program)), error = NA)
output$import <- seconds_between(starting, proc.time())$cpu
results <- list()
for (call in seq_len(calls) - 1) {
  table <- read_table(call)
  before <- proc.time()
  fit <- tryCatch(suppressWarnings(if (program == "nlme") fit_nlme(table) else fit_lme4(table)), error = identity)
  spent <- seconds_between(before, proc.time())
  if (inherits(fit, "error")) {
    output$error <- conditionMessage(fit)
    break
  }
  results[[call + 1]] <- c(spent, fit)
  if (spent$cpu > slow) break
}
output$calls <- results
cat(jsonlite::toJSON(output, auto_unbox = TRUE, digits = NA, null = "null", na = "null"), "\n")

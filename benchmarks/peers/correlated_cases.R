# Cases of correlated_residuals.R: tables, curves, and one list a model. A model is declared by parts, from which both the
# call of nlme (correlated_residuals.R) and an evaluation of our own (correlated_check.R) are built.

# Where the tables are: shared/data beside the reference folder, and benchmarks/data for all others.
shared_data <- function(root) {
  reference <- Sys.getenv("JAXNLME_REFERENCE", file.path(root, "..", "shared", "reference"))
  file.path(dirname(normalizePath(reference, mustWork = FALSE)), "data")
}

# Labels of the groups of nested factors, as nlme writes them: outer/inner.
labels_of <- function(table, factors) do.call(paste, c(unname(lapply(table[factors], as.character)), sep = "/"))

# A table with its grouping columns as factors. Rows without a response are dropped, as nlme would want it.
read_table <- function(name, groups, response, root) {
  path <- file.path(root, "benchmarks", "data", paste0(name, ".csv"))
  if (!file.exists(path)) path <- file.path(shared_data(root), paste0(name, ".csv"))
  if (!file.exists(path)) stop(sprintf("no table %s.csv in benchmarks/data or in %s", name, shared_data(root)))
  table <- read.csv(path, stringsAsFactors = TRUE)
  for (column in intersect(c(groups, "Diet"), names(table))) table[[column]] <- factor(table[[column]])
  table[!is.na(table[[response]]), ]
}

# Curves that R has no self-starting function for, with their analytic gradients.
curves <- list(
  cycle = ~ A + B * sin(2 * pi * w * Time) + C * cos(2 * pi * w * Time),
  growth = ~ a * exp(b * Time / 64),
  decay = ~ A + B * exp(-exp(lk) * (Time - 1)),
  paris = ~ exp(-log(1 - 10 * k * cycles) / m),
  meal = ~ base + A * pmax(Time, 0) * exp(-exp(lk) * pmax(Time, 0)),
  wafer = ~ A + B * cos(w * voltage + pi / 4)
)
cycle <- deriv(curves$cycle, c("A", "B", "C", "w"), function(Time, A, B, C, w) {})
growth <- deriv(curves$growth, c("a", "b"), function(Time, a, b) {})
decay <- deriv(curves$decay, c("A", "B", "lk"), function(Time, A, B, lk) {})
paris <- deriv(curves$paris, c("k", "m"), function(cycles, k, m) {})
wafer <- deriv(curves$wafer, c("A", "B", "w"), function(voltage, A, B, w) {})
after <- deriv(~ base + A * hours * exp(-exp(lk) * hours), c("base", "A", "lk"), function(hours, base, A, lk) {})
meal <- function(Time, base, A, lk) after(pmax(Time, 0), base, A, lk) # deriv() does not know pmax

# Correlations: R's class, the value a fit starts from, and the formula (covariate | group).
ar1 <- function(form, start = 0.3) list(class = "corAR1", start = start, form = form)
car1 <- function(form, start = 0.5) list(class = "corCAR1", start = start, form = form)
arma11 <- function(form, start = c(0.5, 0.1)) list(class = "corARMA", start = start, form = form)

# One model. `fixed`: a formula for each parameter; `random`: for each grouping factor, outermost first, the parameters with
# effects, each with its formula; `psi`: diagonal or full, for every level; `power`: the start of varPower, or NULL.
model_of <- function(name, table, model, fixed, random, start, correlation = NULL, psi = "diagonal", power = NULL) {
  list(
    name = name, table = table, model = model, fixed = fixed, random = random, start = start,
    correlation = correlation, psi = psi, power = power
  )
}

one <- ~1
logistic <- list(Asym = one, xmid = one, scal = one)
logistic_start <- c(100, 5, 1.2)
oral <- list(lKe = one, lKa = one, lCl = one)
oral_start <- c(-2.4, 0.4, -3.2)
nested_logistic <- list(Subject = list(Asym = one, xmid = one), Occasion = list(Asym = one))
nested_oral <- list(Subject = list(lKa = one, lCl = one), Occasion = list(lCl = one))
ovary <- list(A = one, B = one, C = one, w = one)
wafer_start <- c(-4.255, 5.622, 1.258, -0.0956, 4.568)
wafer_fixed <- list(A = ~ voltage + I(voltage^2), B = one, w = one)
wafer_random <- list(Wafer = list(A = ~ voltage + I(voltage^2)), Site = list(A = ~ voltage + I(voltage^2) - 1))
pbg_fixed <- list(A = one, B = one, xmid = ~Treatment, scal = one)
pbg_random <- list(Rabbit = list(B = one), Run = list(B = one, xmid = one))

models <- list(
  # Tables of the literature, one level of grouping.
  model_of(
    "Ovary_cycle_diag_A_B_corAR1", "Ovary", follicles ~ cycle(Time, A, B, C, w), ovary,
    list(Mare = list(A = one, B = one)), c(12.2, -3, -0.9, 1), ar1(~ 1 | Mare)
  ),
  model_of(
    "Ovary_cycle_diag_A_B_corARMA11", "Ovary", follicles ~ cycle(Time, A, B, C, w), ovary,
    list(Mare = list(A = one, B = one)), c(12.2, -3, -0.9, 1), arma11(~ 1 | Mare, c(0.6, -0.2))
  ),
  model_of(
    "BodyWeight_asymp_diet_diag_Asym_R0_corCAR1", "BodyWeight", weight ~ SSasymp(Time, Asym, R0, lrc),
    list(Asym = ~Diet, R0 = ~Diet, lrc = one), list(Rat = list(Asym = one, R0 = one)),
    c(280, 200, 250, 240, 200, 250, -4), car1(~ Time | Rat)
  ),
  model_of(
    "BodyWeight_growth_diet_full_varPower_corCAR1", "BodyWeight", weight ~ growth(Time, a, b), list(a = ~Diet, b = one),
    list(Rat = list(a = one, b = one)), c(250, 200, 250, 0.1), car1(~ Time | Rat), "full", 0.5
  ),
  model_of(
    "Milk_decay_diet_A_corAR1", "Milk", protein ~ decay(Time, A, B, lk), list(A = ~Diet, B = one, lk = one),
    list(Cow = list(A = one)), c(3.4, 0, 0, 0.5, 0), ar1(~ Time | Cow)
  ),
  model_of(
    "Sitka_asymp_diag_Asym_R0_corCAR1", "Sitka", size ~ SSasymp(Time - 152, Asym, R0, lrc), list(Asym = one, R0 = one, lrc = one),
    list(tree = list(Asym = one, R0 = one)), c(5.9, 4.1, -4.3), car1(~ I(Time / 30) | tree)
  ),
  model_of(
    "ChickWeight_logis_diet_diag_Asym_xmid_corCAR1", "ChickWeight", weight ~ SSlogis(Time, Asym, xmid, scal),
    list(Asym = ~Diet, xmid = one, scal = one), list(Chick = list(Asym = one, xmid = one)),
    c(200, 50, 100, 50, 12, 6), car1(~ I(Time / 7) | Chick)
  ),
  model_of(
    "Theoph_fol_lCl_corAR1", "Theoph", conc ~ SSfol(Dose, Time, lKe, lKa, lCl), oral,
    list(Subject = list(lCl = one)), oral_start, ar1(~ 1 | Subject)
  ),
  model_of(
    "Fatigue_paris_k_corAR1", "Fatigue", relLength ~ paris(cycles, k, m), list(k = one, m = one),
    list(Path = list(k = one)), c(0.6, 3), ar1(~ 1 | Path)
  ),
  model_of(
    "Fatigue_paris_diag_k_m_corCAR1", "Fatigue", relLength ~ paris(cycles, k, m), list(k = one, m = one),
    list(Path = list(k = one, m = one)), c(0.6, 3), car1(~ I(100 * cycles) | Path)
  ),
  model_of(
    "Soybean_logis_diag_Asym_xmid_corAR1", "Soybean", weight ~ SSlogis(Time, Asym, xmid, scal), logistic,
    list(Plot = list(Asym = one, xmid = one)), c(19, 55, 8.4), ar1(~ 1 | Plot)
  ),
  model_of(
    "Soybean_logis_variety_Asym_varPower_corCAR1", "Soybean", weight ~ SSlogis(Time, Asym, xmid, scal),
    list(Asym = ~Variety, xmid = one, scal = one), list(Plot = list(Asym = one)), c(17, 3, 52, 7.5),
    car1(~ I(Time / 7) | Plot), power = 0.9
  ),

  # Tables of the literature, nested groups; the correlation acts within the inner group.
  model_of("Wafer_nested", "Wafer", current ~ wafer(voltage, A, B, w), wafer_fixed, wafer_random, wafer_start),
  model_of(
    "Wafer_nested_corAR1", "Wafer", current ~ wafer(voltage, A, B, w), wafer_fixed, wafer_random, wafer_start,
    ar1(~ 1 | Wafer / Site)
  ),
  model_of(
    "PBG_fpl_nested", "PBG", deltaBP ~ SSfpl(log(dose), A, B, xmid, scal), pbg_fixed, pbg_random, c(1.5, 28, 3.5, 0.9, 0.3)
  ),
  model_of(
    "PBG_fpl_nested_corAR1", "PBG", deltaBP ~ SSfpl(log(dose), A, B, xmid, scal), pbg_fixed, pbg_random,
    c(1.5, 28, 3.5, 0.9, 0.3), ar1(~ 1 | Rabbit / Run, -0.3)
  ),
  # Effects of the outer group only: the correlation's groups lie deeper than those of the effects.
  model_of(
    "Spruce_asymp_plot_corCAR1", "Spruce", logSize ~ SSasymp(days - 152, Asym, R0, lrc), list(Asym = one, R0 = one, lrc = one),
    list(plot = list(Asym = one)), c(6, 4.3, -4.3), car1(~ I(days / 365.25) | plot / Tree)
  ),
  model_of(
    "Glucose_meal_subject_corCAR1", "Glucose", conc ~ meal(Time, base, A, lk), list(base = one, A = one, lk = one),
    list(Subject = list(A = one)), c(4.5, 8, 0.3), car1(~ Time | Subject / Meal)
  ),

  # Simulated tables (correlated_tables.R), whose truth is known.
  model_of(
    "sim_logistic_ar1_full", "sim_logistic_ar1", y ~ SSlogis(t, Asym, xmid, scal), logistic,
    list(Subject = list(Asym = one, xmid = one)), logistic_start, ar1(~ 1 | Subject), "full"
  ),
  model_of(
    "sim_logistic_ar1_gaps_diag", "sim_logistic_ar1_gaps", y ~ SSlogis(t, Asym, xmid, scal), logistic,
    list(Subject = list(Asym = one, xmid = one)), logistic_start, ar1(~ t | Subject)
  ),
  model_of(
    "sim_logistic_arma11_diag", "sim_logistic_arma11", y ~ SSlogis(t, Asym, xmid, scal), logistic,
    list(Subject = list(Asym = one, xmid = one)), logistic_start, arma11(~ 1 | Subject)
  ),
  model_of(
    "sim_logistic_arma11_gaps_diag", "sim_logistic_arma11_gaps", y ~ SSlogis(t, Asym, xmid, scal), logistic,
    list(Subject = list(Asym = one, xmid = one)), logistic_start, arma11(~ t | Subject)
  ),
  model_of(
    "sim_asympOff_negative_ar1_diag", "sim_asympOff_negative_ar1", y ~ SSasympOff(t, Asym, lrc, c0),
    list(Asym = one, lrc = one, c0 = one), list(Subject = list(Asym = one, lrc = one)), c(30, -1, 0.4),
    ar1(~ t | Subject, -0.2)
  ),
  model_of(
    "sim_asymp_car1_full", "sim_asymp_car1", y ~ SSasymp(t, Asym, R0, lrc), list(Asym = ~treat, R0 = one, lrc = one),
    list(Subject = list(Asym = one, R0 = one)), c(50, 5, 5, -1), car1(~ t | Subject), "full"
  ),
  model_of(
    "sim_fpl_power_ar1", "sim_fpl_power_ar1", y ~ SSfpl(t, A, B, xmid, scal), list(A = one, B = one, xmid = one, scal = one),
    list(Subject = list(B = one, xmid = one)), c(10, 110, 5, 1), ar1(~ 1 | Subject), power = 0.4
  ),
  model_of(
    "sim_oral_power_car1", "sim_oral_power_car1", conc ~ SSfol(Dose, Time, lKe, lKa, lCl), oral,
    list(Subject = list(lKa = one, lCl = one)), oral_start, car1(~ Time | Subject), power = 0.4
  ),
  model_of(
    "sim_biexp_car1", "sim_biexp_car1", conc ~ SSbiexp(Time, A1, lrc1, A2, lrc2),
    list(A1 = one, lrc1 = one, A2 = one, lrc2 = one), list(Subject = list(A1 = one, A2 = one)), c(20, 1, 8, -1.5),
    car1(~ Time | Subject)
  ),
  model_of(
    "sim_nested_logistic", "sim_nested_logistic", y ~ SSlogis(t, Asym, xmid, scal), logistic, nested_logistic, logistic_start
  ),
  model_of(
    "sim_nested_logistic_ar1", "sim_nested_logistic", y ~ SSlogis(t, Asym, xmid, scal), logistic, nested_logistic,
    logistic_start, ar1(~ 1 | Subject / Occasion)
  ),
  model_of(
    "sim_nested_logistic_gaps_ar1", "sim_nested_logistic_gaps", y ~ SSlogis(t, Asym, xmid, scal), logistic, nested_logistic,
    logistic_start, ar1(~ t | Subject / Occasion)
  ),
  model_of(
    "sim_nested_logistic_subject_ar1", "sim_nested_logistic", y ~ SSlogis(t, Asym, xmid, scal), logistic,
    list(Subject = list(Asym = one, xmid = one)), logistic_start, ar1(~ 1 | Subject / Occasion)
  ),
  model_of("sim_nested_oral", "sim_nested_oral", conc ~ SSfol(Dose, Time, lKe, lKa, lCl), oral, nested_oral, oral_start),
  model_of(
    "sim_nested_oral_car1", "sim_nested_oral", conc ~ SSfol(Dose, Time, lKe, lKa, lCl), oral, nested_oral, oral_start,
    car1(~ Time | Subject / Occasion)
  ),
  model_of(
    "sim_nested_oral_power_car1", "sim_nested_oral_power", conc ~ SSfol(Dose, Time, lKe, lKa, lCl), oral, nested_oral, oral_start,
    car1(~ Time | Subject / Occasion), power = 0.4
  )
)

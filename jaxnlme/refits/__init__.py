"""Many refits of one fit: bootstrap, jackknife, multistart and profile likelihood, each as a batch in one compiled
program."""

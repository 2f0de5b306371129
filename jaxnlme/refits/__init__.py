"""Many fits around one: bootstrap, jackknife, multistart and profile likelihood, each a batch in one program."""

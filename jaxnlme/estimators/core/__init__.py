"""Parts common to all estimators: options, callbacks, progress, starting values, checkpoints."""

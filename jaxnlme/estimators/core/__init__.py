"""What all estimators share: options, callbacks, progress, starting values, checkpoints."""

"""Style, axes and marks of all pictures; nothing of models."""

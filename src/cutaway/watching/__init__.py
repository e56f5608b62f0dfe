"""Training-time interpretability: what is inside a model, watched while it learns, and when it rose."""

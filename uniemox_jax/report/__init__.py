"""Pages, figures and model cards."""

"""Shipped experiments. Each file is an ml_collections config; its docstring is the recipe."""

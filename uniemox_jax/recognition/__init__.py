"""Any model that names emotions in images: one function makes it ready, one class runs it."""

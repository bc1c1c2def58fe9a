"""Any model that names emotions in images: made ready by one function, run by one class."""

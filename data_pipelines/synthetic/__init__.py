"""The verb `synthetic`: it draws small datasets in the real layouts."""

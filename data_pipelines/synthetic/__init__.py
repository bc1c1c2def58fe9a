"""The verb `synthetic`: small drawn datasets in the real layouts."""

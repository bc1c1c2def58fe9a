"""The record format, and access to any record by its position."""

"""Measurements of real servers; each module runs by itself and prints a table."""

"""One training core for all methods, on Lightning."""

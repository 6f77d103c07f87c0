"""The data engines: what goes into training, with where it comes from."""

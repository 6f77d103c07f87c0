"""insitu puts chosen subjects at chosen places in an image."""

__version__ = "0.1.0"

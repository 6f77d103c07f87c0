"""A look at the installation: versions, device, settings and checkpoints. Loads no model."""

from insitu.doctor.installation import examine
from insitu.doctor.report import Report
from insitu.doctor.text import render

__all__ = ["Report", "examine", "render"]

"""What `make demo` brings up to date, with DVC or with Dagster's job of that name."""

JOB = "demo"
TARGETS = ("gallery", "register@dreammix", "boundid", "entities", "quadruples", "groups")
"""Stages, with all that they follow from: without the methods that are trained on data sets, which
takes most of an hour more."""

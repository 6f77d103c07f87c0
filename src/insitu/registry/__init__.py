"""Adapters as packages: what is registered, promoted and served. Imports no torch."""

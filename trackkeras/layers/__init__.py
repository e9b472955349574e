"""Reusable Keras layers, registered under the package name `trackkeras`."""

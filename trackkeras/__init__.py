"""trackkeras: Keras networks for reconstruction, from detector simulation to a deployed model.

Importing this package imports nothing heavy: TensorFlow loads only in the modules that use it.
"""

__version__ = "0.1.0"

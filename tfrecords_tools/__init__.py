"""Sharded TFRecord datasets without TensorFlow: write, read, generate, convert, verify and describe them.

A dataset is a folder of `NAME-SPLIT.tfrecord-00000-of-00064` shards beside a `manifest.json`. Everything here
is NumPy and the standard library; TensorFlow and TFDS read the same files.
"""

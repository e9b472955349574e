"""The gRPC server against the official stubs and our client."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import rpc
from serving.client import Client, Retry
from serving.errors import Code, ServingError
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from conftest import MAX_ROWS, tracks, transport

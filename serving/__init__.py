"""Serve exported bundles the way TensorFlow Serving does, and query them; nothing here imports TensorFlow.

A bundle is a folder `NAME/VERSION` that the exporter wrote: a SavedModel, its ONNX twin and `bundle.json`.

    from serving.bundle import discover
    from serving.server import Server
    from serving.client import Client

    with Server(discover([path]), grpc_port=0) as server, Client(server.grpc_target) as client:
        outputs = client.predict("mlp_medium", inputs)
"""

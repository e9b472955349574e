"""The loaded models of a server and the one way through which every request reaches them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from serving.bundle import Bundle, Model
from serving.errors import Code, ServingError
from serving.runtime import Backend, BackendName, load
from serving.signature import DEFAULT_SIGNATURE, Signature
from serving.tensors import Array

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one request may ask for.

    Attributes:
        max_rows: Rows of a request.
        max_bytes: Size of a gRPC message, and of every tensor in it.
        max_json_bytes: Size of a REST body; parsed, it takes many times that memory.
    """

    max_rows: int = 1_000_000
    max_bytes: int = 64 * 2**20
    max_json_bytes: int = 16 * 2**20


@dataclass(frozen=True)
class Servable:
    """One loaded version of a model."""

    bundle: Bundle
    backend: Backend

    def signature(self, name: str) -> Signature:
        """Return a signature by name; an empty name means the default one.

        Raises:
            ServingError: There is no such signature.
        """
        signatures = self.backend.signatures
        if (name or DEFAULT_SIGNATURE) not in signatures:
            raise ServingError(
                f"model {self.bundle.name!r} has no signature {name!r}; it has {', '.join(signatures)}"
            )
        return signatures[name or DEFAULT_SIGNATURE]

    def predict(
        self, signature: str, inputs: Mapping[str, Array], limits: Limits, outputs: Sequence[str] = ()
    ) -> dict[str, Array]:
        """Check a request and run it.

        Args:
            signature: Name of the signature; empty for the default one.
            inputs: Arrays by name.
            limits: What a request may ask for.
            outputs: Names of the wanted outputs; empty for all.

        Raises:
            ServingError: The request does not fit the signature or a limit, or the engine fails.
        """
        wanted = self.signature(signature)
        wanted.check_inputs(inputs, limits.max_rows)
        unknown = [name for name in outputs if name not in wanted.outputs]
        if unknown:
            raise ServingError(
                f"unknown output {', '.join(map(repr, unknown))}; the model gives {', '.join(wanted.outputs)}"
            )
        try:
            results = self.backend.run(signature or DEFAULT_SIGNATURE, inputs)
        except Exception as error:  # whatever an engine raises must not take the server down
            _log.exception("%s version %d failed", self.bundle.name, self.bundle.version)
            raise ServingError(f"model {self.bundle.name!r} failed: {error}", Code.INTERNAL) from None
        return {name: results[name] for name in outputs or wanted.outputs}


class Repository:
    """Loaded models by name and version."""

    def __init__(self, models: Iterable[Model], backend: BackendName = "onnx") -> None:
        self._servables = {
            model.name: {bundle.version: Servable(bundle, load(bundle, backend)) for bundle in model.versions}
            for model in models
        }

    @property
    def versions(self) -> dict[str, list[int]]:
        """Versions of every model, ascending."""
        return {name: sorted(versions) for name, versions in self._servables.items()}

    def find(self, name: str, version: int | None = None) -> Servable:
        """Return a version of a model, the latest one by default.

        Raises:
            ServingError: There is no such model or version.
        """
        versions = self._versions_of(name)
        if version is None:
            return versions[max(versions)]
        if version not in versions:
            raise ServingError(
                f"model {name!r} has no version {version}; it has {', '.join(map(str, sorted(versions)))}",
                Code.NOT_FOUND,
            )
        return versions[version]

    def available(self, name: str, version: int | None = None) -> list[int]:
        """Return the loaded versions of a model, latest first, or only the one that is asked for.

        Raises:
            ServingError: There is no such model or version.
        """
        if version is not None:
            return [self.find(name, version).bundle.version]
        return sorted(self._versions_of(name), reverse=True)

    def _versions_of(self, name: str) -> Mapping[int, Servable]:
        if not name:
            raise ServingError("the request names no model")
        if name not in self._servables:
            raise ServingError(
                f"no model named {name!r}; this server has {', '.join(self._servables)}", Code.NOT_FOUND
            )
        return self._servables[name]

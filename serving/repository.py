"""The loaded models of a server and the one way through which every request reaches them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from serving.bundle import Bundle, Model
from serving.errors import Code, ServingError
from serving.metrics import Metrics
from serving.runtime import Backend, BackendName, load
from serving.signature import DEFAULT_SIGNATURE, Signature
from serving.tensors import Array

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What clients may ask for.

    Attributes:
        max_rows: Rows of a request.
        max_bytes: Size of a gRPC message, and of every tensor in it.
        max_json_bytes: Size of a REST body; parsed, it takes many times that memory.
        max_concurrent: Requests that one protocol answers or keeps waiting at a time; one more is refused at
            once. REST keeps at most twice as many connections.
    """

    max_rows: int = 1_000_000
    max_bytes: int = 64 * 2**20
    max_json_bytes: int = 16 * 2**20
    max_concurrent: int = 128


@dataclass(frozen=True)
class Servable:
    """One loaded version of a model."""

    bundle: Bundle
    backend: Backend
    metrics: Metrics = field(default_factory=Metrics)

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
        rows = wanted.check_inputs(inputs, limits.max_rows)
        unknown = [name for name in outputs if name not in wanted.outputs]
        if unknown:
            raise ServingError(
                f"unknown output {', '.join(map(repr, unknown))}; the model gives {', '.join(wanted.outputs)}"
            )
        try:
            # Some graphs cannot be run on no rows.
            results = (
                wanted.no_rows() if rows == 0 else self.backend.run(signature or DEFAULT_SIGNATURE, inputs)
            )
        except Exception as error:  # whatever an engine raises must not take the server down
            _log.exception("%s version %d failed", self.bundle.name, self.bundle.version)
            raise ServingError(f"model {self.bundle.name!r} failed: {error}", Code.INTERNAL) from None
        self.metrics.count_rows(self.bundle.name, 1 if rows is None else rows)
        return {name: results[name] for name in outputs or wanted.outputs}


class Repository:
    """Loaded models by name and version.

    The table of versions is never changed in place: `refresh` puts a new one in its place, so a request sees
    the old one or the new one, and keeps what it found until it is answered.

    Raises:
        ServingError: A bundle cannot be loaded.
    """

    def __init__(self, models: Iterable[Model], backend: BackendName = "onnx") -> None:
        self.metrics = Metrics()
        self._backend = backend
        self._servables: Mapping[str, Mapping[int, Servable]] = {}
        problems = self.refresh(models)
        if problems:
            raise problems[0]

    def refresh(self, models: Iterable[Model]) -> list[ServingError]:
        """Load versions that are new, and let go of those whose folder is gone.

        Args:
            models: What the folders hold now; a version that is served already is not read again.

        Returns:
            What could not be loaded; it changes nothing.
        """
        before, problems = self._servables, []
        after: dict[str, dict[int, Servable]] = {}
        for name, versions in before.items():
            for version, servable in versions.items():
                if servable.bundle.path.is_dir():
                    after.setdefault(name, {})[version] = servable
                else:
                    _log.info("%s version %d is removed", name, version)
                    self.metrics.count_reload("removed")
        for model in models:
            for bundle in model.versions:
                if bundle.version in after.get(bundle.name, {}):
                    continue
                try:
                    servable = Servable(bundle, load(bundle, self._backend), self.metrics)
                except ServingError as error:
                    problems.append(error)
                    continue
                after.setdefault(bundle.name, {})[bundle.version] = servable
                _log.info("%s version %d is loaded", bundle.name, bundle.version)
                self.metrics.count_reload("loaded")
        self._servables = after
        return problems

    @property
    def versions(self) -> dict[str, list[int]]:
        """Versions of every model, ascending."""
        return {name: sorted(versions) for name, versions in sorted(self._servables.items())}

    def label(self, name: str) -> str:
        """Return the name if it is that of a served model, otherwise an empty string: for metrics."""
        return name if name in self._servables else ""

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
        servables = self._servables
        if name not in servables:
            known = ", ".join(sorted(servables)) or "none at the moment"
            raise ServingError(f"no model named {name!r}; this server has {known}", Code.NOT_FOUND)
        return servables[name]

"""MLP -> one C++ header that needs nothing else, refused unless it agrees with Keras.

The header holds the weights and the same code three times: for AVX-512, for AVX2 and for any processor; the
best is chosen at run time. What a domain adds to the dense layers it gives as C++ text in
`Network.functions`: what follows them (a bend on a straight line, say), and numbers that they see beside the
columns (the state after a few steps through a field, say).

That text is compiled once per instruction set, for vectors `vec` of rows: arithmetic goes component by
component. It may use `fill(to, number)`, `bound(v, limit)`, `invert(v)`, `exponential(v)`, `inverse_root(v)`,
which change their first argument, and with prepared numbers `sine_cosine(v, sine, cosine)`; every function
begins with `TRACKKERAS_INLINE`. It defines

    void finish(const vec* in, const vec* heads, int stride, vec* out)
    void finish_with_jacobian(const vec* in, const vec* along, const vec* heads, vec* out, vec* jacobian)

`in` holds the columns and behind them the prepared numbers, `heads[i * stride]` what the last layer gives. In
the second, `heads[i * (1 + tangents)]` is followed by its derivatives, `along[i * tangents + j]` is the
derivative of prepared number i along column j (a null pointer without any), and `jacobian[i * tangents + j]`
that of `out[i]`. Where `Network.prepared` names numbers, it also defines

    void prepare(vec* in)
    void prepare_with_jacobian(vec* in, vec* along)

which write them behind the columns, and their derivatives.

A network that is asked many times on the way from the columns to the result, at every point of a path, has
names in `Network.asked`. Then the text defines instead of all these

    template <class Engine> void follow(const vec* in, vec* out)
    template <class Engine> void follow_with_jacobian(const vec* in, vec* out, vec* jacobian)

and asks by `Engine::ask(numbers, heads)`, or by `Engine::ask_with_slopes(numbers, slopes, heads)`, where
`slopes[i * directions + j]` is the derivative of number i in direction j and `heads[i * (1 + directions)]` is
followed by its derivatives. What should not be copied to every place of its use begins with
`TRACKKERAS_CODE __attribute__((noinline))`. Such text may also compute in float64, for `dvec` of half the
rows: `widen(v, half, to)` and `narrow(v, half, to)` convert, where only the first `Engine::halves` of the two
differ, and `bound`, `exponential` and `sine_cosine` take them.
"""

from __future__ import annotations

import re
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from serving.signature import DEFAULT_SIGNATURE
from trackkeras.domain import Rows, Signature, Task
from trackkeras.errors import UserError

if TYPE_CHECKING:
    import keras

PANEL = 16
"""Neurons whose weights lie side by side: one AVX-512 register."""

ACTIVATIONS = ("silu", "tanh", "relu")


@dataclass(frozen=True, eq=False)
class Layer:
    """A dense layer: `kernel` `(fan_in, neurons)`, `bias` `(neurons,)`, and an activation or `linear`."""

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    activation: str


@dataclass(frozen=True, eq=False)
class Network:
    """What the header is written from.

    Attributes:
        columns: Names of all input columns, one input after the other.
        features: Which columns the first layer sees, in its order; behind the last column follow the prepared
            numbers.
        mean: `(features,)`, subtracted from the features.
        inverse_scale: `(features,)`, multiplied with them then.
        layers: Dense layers; all but the last have one common activation, the last is linear.
        tangents: Derivatives are taken with respect to the first so many columns.
        endpoint: Name of the bundle's signature that gives the derivatives too.
        functions: C++ text, see above.
        prepared: Names of the numbers that `prepare` computes.
        asked: Names of the numbers that the network is asked with on its way; `features` are places in them.
        directions: Derivatives that come with each of them.
    """

    columns: tuple[str, ...]
    features: tuple[int, ...]
    mean: NDArray[np.float32]
    inverse_scale: NDArray[np.float32]
    layers: tuple[Layer, ...]
    tangents: int
    endpoint: str
    functions: str
    prepared: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    directions: int = 0


# Register budgets: `block` neurons times `tile` vectors of rows, `block_with_derivatives` neurons times 6,
# and `panels` neurons of a single row, fit the 32 (AVX-512) or 16 registers. With one vector of rows, two
# layers of 64 neurons and their weights stay in the nearest cache.
_INSTRUCTION_SETS: tuple[dict[str, Any], ...] = (
    {
        "name": "portable",
        "target": "",
        "prefix": "",
        "mask": "",
        "register": "",
        "reciprocal": "",
        "lanes": 4,
        "tile": 2,
        "block": 4,
        "block_with_derivatives": 2,
        "panels": 2,
        "panels_with_derivatives": 1,
    },
    {
        "name": "avx2",
        "target": "avx2,fma",
        "prefix": "_mm256",
        "mask": "",
        "register": "__m256",
        "reciprocal": "rcp_ps",
        "lanes": 8,
        "tile": 2,
        "block": 4,
        "block_with_derivatives": 2,
        "panels": 4,
        "panels_with_derivatives": 1,
    },
    {
        "name": "avx512",
        "target": "avx512f,avx512dq,avx2,fma",
        # Forms with a mask of ones: GCC 12 warns of its own header in the others.
        "prefix": "_mm512_maskz",
        "mask": "0xffff, ",
        "register": "__m512",
        "reciprocal": "rcp14_ps",
        "lanes": 16,
        "tile": 1,
        "block": 16,
        "block_with_derivatives": 4,
        "panels": 4,
        "panels_with_derivatives": 4,
    },
)
INSTRUCTION_SETS = tuple(str(entry["name"]) for entry in _INSTRUCTION_SETS)


def producer(tensor: Any) -> tuple[Any, list[Any]]:
    """Return the layer that made a tensor of a functional model, and the tensors it made it from."""
    layer, node, _ = tensor._keras_history
    return layer, list(layer._inbound_nodes[node].input_tensors)


def read_stack(heads: Any, columns: Sequence[str]) -> tuple[tuple[int, ...], Any, tuple[Layer, ...]]:
    """Walk from the last dense layer's output back to the inputs.

    Args:
        heads: Output of a linear `Dense`.
        columns: Names of all input columns, such as `state[0]`, and of prepared numbers behind them: a layer
            whose output `LAYER[0]` is among them is not looked into.

    Returns:
        Places of the columns that the first layer sees, the `Standardize` layer, and the dense layers in
        their order.

    Raises:
        UserError: The graph is not inputs and prepared numbers, `Concatenate`, `Standardize`, and `Dense`
            layers.
    """
    layers: list[Layer] = []
    layer, sources = producer(heads)
    while type(layer).__name__ == "Dense":
        layers.insert(0, _read_dense(layer, last=not layers))
        layer, sources = producer(sources[0])
    if type(layer).__name__ != "Standardize" or not layers:
        raise _not_an_mlp(layer)
    standardize = layer
    layer, sources = producer(sources[0])
    if type(layer).__name__ != "Concatenate":
        raise _not_an_mlp(layer)
    features: list[int] = []
    for source in sources:
        origin, _ = producer(source)
        if f"{origin.name}[0]" not in columns:
            raise _not_an_mlp(origin)
        features += [columns.index(f"{origin.name}[{index}]") for index in range(source.shape[-1])]
    if len({entry.activation for entry in layers[:-1]}) > 1:
        raise UserError("the hidden layers have several activations; a C++ header has one")
    return tuple(features), standardize, tuple(layers)


def _read_dense(layer: Any, *, last: bool) -> Layer:
    activation = layer.activation.__name__
    allowed = ("linear",) if last else ACTIVATIONS
    if activation not in allowed or not layer.use_bias:
        raise UserError(
            f"layer {layer.name!r} has activation {activation!r} and use_bias={layer.use_bias}; a C++ header "
            f"needs {' or '.join(allowed)} with a bias; nothing exported"
        )
    kernel, bias = (np.asarray(value, "float32") for value in layer.get_weights())
    return Layer(kernel, bias, activation)


def _not_an_mlp(layer: Any) -> UserError:
    return UserError(
        f"layer {layer.name!r} ({type(layer).__name__}) has no C++ form: a header is written for "
        "standardised inputs, dense layers and the domain's last layer; use ONNX Runtime for other networks"
    )


def signature_columns(signature: Signature) -> tuple[str, ...]:
    """Return the names of all input columns, `NAME[INDEX]`, in the signature's order."""
    return tuple(
        f"{tensor.name}[{index}]"
        for tensor in signature.inputs
        for index in range(int(np.prod(tensor.shape)))
    )


def identifier(name: str) -> str:
    """Return a bundle's name as a C++ identifier: namespace and file name of its header."""
    text = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_").lower()
    return text if text[:1].isalpha() else f"network_{text}"


def render(network: Network, signature: Signature, name: str, title: str) -> str:
    """Return the text of the header.

    Args:
        network: Weights and structure.
        signature: Names, shapes and units of inputs and outputs.
        name: Namespace.
        title: First line, a comment: where the network comes from.
    """
    numbers = [network.mean, network.inverse_scale]
    layers = []
    for layer in network.layers:
        kernel, bias = _pack(layer)
        numbers += [kernel, bias]
        fan_in, neurons = layer.kernel.shape
        layers.append(
            {
                "kernel": _lines(kernel),
                "bias": _lines(bias),
                "kernel_size": kernel.size,
                "bias_size": bias.size,
                "fan_in": fan_in,
                "neurons": neurons,
            }
        )
    widths = [len(network.features), *(layer.kernel.shape[1] for layer in network.layers)]
    padded = _padded(max(widths))
    heads = network.layers[-1].kernel.shape[1]
    tensors = [_tensor(tensor) for tensor in signature.inputs]
    names = [tensor.name for tensor in signature.inputs]
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("trackkeras"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        keep_trailing_newline=True,
    )
    template = "path_network.hpp.j2" if network.asked else "network.hpp.j2"
    seen = network.asked or (*network.columns, *network.prepared)
    return environment.get_template(template).render(
        title=title,
        namespace=name,
        inputs=tensors,
        outputs=[_tensor(tensor) for tensor in signature.outputs],
        features=[seen[index] for index in network.features],
        prepared=len(network.prepared),
        asked=len(network.asked),
        directions=network.directions,
        feature_columns=network.features,
        flattened=[
            {"tensor": index, "index": column, "columns": tensor["columns"]}
            for index, tensor in enumerate(tensors)
            for column in range(tensor["columns"])
        ],
        columns=len(network.columns),
        results=int(np.prod(signature.outputs[0].shape)),
        tangents=network.tangents,
        signatures=(DEFAULT_SIGNATURE, network.endpoint),
        mean=_numbers(network.mean),
        inverse_scale=_numbers(network.inverse_scale),
        layers=layers,
        activation=network.layers[0].activation,
        heads=heads,
        heads_in_blocks=_padded(heads),
        widest=padded,
        widest_padded=padded,
        crc=_crc(numbers),
        functions=network.functions.strip() + "\n",
        instruction_sets=[_budget(entry, network) for entry in _INSTRUCTION_SETS],
        parameters=", ".join(f"const float* {name}" for name in names),
        arguments=", ".join(names),
        example_arguments=", ".join([*names, signature.outputs[0].name]),
    )


def _budget(instruction_set: dict[str, Any], network: Network) -> dict[str, Any]:
    """Return an instruction set with blocks for what goes through the dense layers together.

    On a path that is one vector of rows, with one or three numbers each, so that more neurons fit.
    """
    if not network.asked:
        return instruction_set
    block = instruction_set["tile"] * instruction_set["block"]
    return {**instruction_set, "block": block, "block_with_derivatives": block // 2}


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "columns": int(np.prod(tensor.shape)), "unit": tensor.unit}


def _padded(neurons: int) -> int:
    return -(-neurons // PANEL) * PANEL


def _pack(layer: Layer) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return kernel `[panel][input][16]` and bias, filled up with zeros."""
    fan_in, neurons = layer.kernel.shape
    kernel = np.zeros((fan_in, _padded(neurons)), "float32")
    bias = np.zeros(_padded(neurons), "float32")
    kernel[:, :neurons], bias[:neurons] = layer.kernel, layer.bias
    return kernel.reshape(fan_in, -1, PANEL).transpose(1, 0, 2).ravel(), bias


def _crc(numbers: Sequence[NDArray[np.float32]]) -> int:
    crc = 0
    for part in numbers:
        crc = zlib.crc32(np.ascontiguousarray(part, "<f4").tobytes(), crc)
    return crc


def _numbers(values: NDArray[np.float32]) -> str:
    return ", ".join(_literal(value) for value in values.tolist())


def _lines(values: NDArray[np.float32]) -> str:
    def rows() -> Iterator[str]:
        for start in range(0, values.size, PANEL):
            yield (
                "    "
                + ", ".join(_literal(value) for value in values[start : start + PANEL].tolist())
                + ",\n"
            )

    return "".join(rows())


def _literal(value: float) -> str:
    """Return a float32 such that a compiler reads exactly it: nine digits suffice."""
    text = f"{value:.9g}"
    return f"{text}f" if any(mark in text for mark in ".en") else f"{text}.0f"


def write_header(model: keras.Model, task: Task, path: Path, title: str) -> None:
    """Write a model as a C++ header whose namespace is the file's stem.

    Raises:
        UserError: The model has no C++ form, or a weight is not finite.
    """
    signature = task.signature()
    other = [tensor for tensor in signature.inputs + signature.outputs if tensor.dtype != "float32"]
    if other:
        raise UserError(
            f"{other[0].name!r} is {other[0].dtype}; a C++ header takes and gives float32, "
            "use ONNX Runtime from C++ for this network"
        )
    network = task.cpp_network(model)
    for layer in network.layers:
        if not (np.isfinite(layer.kernel).all() and np.isfinite(layer.bias).all()):
            raise UserError("a weight is not finite; nothing exported")
    path.write_text(render(network, signature, path.stem, title))


def run_header(
    path: Path,
    rows: Rows,
    signature: Signature,
    name: str = DEFAULT_SIGNATURE,
    instruction_set: str = "best",
) -> Rows:
    """Compile a header into a small program and run it on some rows.

    Args:
        path: The header.
        rows: Input columns.
        signature: Names and shapes.
        name: Name of the signature.
        instruction_set: One of `INSTRUCTION_SETS`, or the best of this machine.

    Raises:
        ServingError: There is no compiler, or the header does not compile.
    """
    from serving.native import Program, build

    with tempfile.TemporaryDirectory() as folder:
        program = Program(build("apply", Path(folder), header=path))
        return program.apply("generated", instruction_set, rows, signature.inputs, signature.outputs, name)

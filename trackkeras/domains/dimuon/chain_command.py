"""`trackkeras dimuon export-chain`: from hits to muons in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trackkeras.console import JsonOption, print_json
from trackkeras.errors import UserError


def export_chain(
    finder: Annotated[Path, typer.Option(help="Run of a finder_* preset.")],
    momentum: Annotated[Path, typer.Option(help="Run of a momentum_* preset.")],
    quality: Annotated[Path | None, typer.Option(help="Run of a quality_* preset.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of bundles.")] = Path("bundles"),
    name: Annotated[
        str | None, typer.Option(help="Name of the bundle behind chain_; the names of the runs if not given.")
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            min=0, help="Farthest from the finder's answer to a hit, in elements; any if not given."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Dataset for the parity check; default: the finder's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Export finder, refinement, momentum and quality as one SavedModel and one ONNX file.

    It takes matrices of hits and of drift distances and gives hits, momenta and quality of mu+ and mu-,
    and their mass. Muons with few hits are not left out, as `reconstruct` does. Refused unless both formats
    agree with the parts in Keras.

    Example: trackkeras dimuon export-chain --finder runs/f --momentum runs/m --quality runs/q --out bundles
    """
    import json
    import re

    from trackkeras.domains.dimuon.chain_export import export_chain as write
    from trackkeras.domains.dimuon.chain_export import open_part
    from trackkeras.tensorflow_import import load_tensorflow

    if name is not None and not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise UserError(f"--name may have letters, digits, '.', '_' and '-', received {name!r}")
    for kind, path in (("finder", finder), ("momentum", momentum), ("quality", quality)):
        if path is not None:
            open_part(path, kind)  # before TensorFlow is loaded
    load_tensorflow()
    path = write(finder, momentum, quality, out, name=name, window=limit, data=data)
    (parity,) = json.loads((path / "parity.json").read_text()).values()
    if as_json:
        print_json({"bundle": str(path), "parity": parity})
        return
    shares = ", ".join(f"{kind} {parity[kind]['excess']:.2g}" for kind in ("saved_model", "onnx"))
    print(f"{path}: parity with the parts, the largest difference as a share of what is allowed")
    print(f"  {shares} on {parity['rows']:,} events ({parity['rule']})")

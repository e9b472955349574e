"""What the shared road needs to know about track extrapolation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from trackkeras.config import Options
from trackkeras.domain import Domain, Rows, Task
from trackkeras.domains.extrapolation.generation_options import PRESETS, GenerateOptions
from trackkeras.domains.extrapolation.mlp import MlpTask

if TYPE_CHECKING:
    from tfrecords_tools.reader import Dataset
    from tfrecords_tools.schema import Schema


class Extrapolation(Domain):
    """State at z0 to state at z0 + dz in a dipole field."""

    name = "extrapolation"
    summary = "LHCb dipole: track state at z0 to track state at z0 + dz"
    tasks: ClassVar[Mapping[str, Task]] = {"mlp": MlpTask()}
    GenerateOptions = GenerateOptions
    generation_presets = PRESETS
    merge_same = ("field",)
    shard_function = "trackkeras.domains.extrapolation.simulate:make_shard"

    def schema(self) -> Schema:
        """Return the record schema: `state`, `z0`, `dz`, `final_state`."""
        from trackkeras.domains.extrapolation.simulate import extrapolation_schema

        return extrapolation_schema()

    def generation_schema(self, options: Options) -> Schema:
        """Return the record schema with the columns that the options add."""
        from trackkeras.domains.extrapolation.simulate import extrapolation_schema

        assert isinstance(options, GenerateOptions)
        return extrapolation_schema(options)

    def read_files(self, files: Sequence[Path], options: Options) -> Iterator[Rows]:
        """Yield the tracks of NPZ files with X (N, 6), Y (N, 4), P (N,), Z (N, 2), or of Parquet files."""
        from tfrecords_tools.parquet import read_parquet
        from trackkeras.domains.extrapolation.npz import read_seed_npz

        for path in files:
            yield from (read_parquet if path.suffix == ".parquet" else read_seed_npz)(path)

    def write_file(self, source: Dataset, split: str, path: Path) -> int:
        """Write a split as an NPZ file with X, Y, P, Z."""
        from trackkeras.domains.extrapolation.npz import write_seed_npz

        write_seed_npz(source, split, path)
        return source.rows(split)

    def merge_files(self, files: Sequence[Path], path: Path, *, verify: bool) -> int:
        """Join NPZ files with X, Y, P, Z into one."""
        from trackkeras.domains.extrapolation.npz import merge_seed_npz, verify_merged_npz

        rows = merge_seed_npz(files, path)
        if verify:
            verify_merged_npz(files, path)
        return rows

    def check_rows(self, rows: Rows) -> list[str]:
        """Return what violates the sanity rules of a track sample."""
        from trackkeras.domains.extrapolation.sanity import check_rows

        return check_rows(rows)


DOMAIN = Extrapolation()

"""What the shared road needs to know about the dimuon spectrometer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from trackkeras.config import Options
from trackkeras.domain import Domain, Rows, Task
from trackkeras.domains.dimuon.finder import FinderTask
from trackkeras.domains.dimuon.momentum import MomentumTask
from trackkeras.domains.dimuon.quality import QualityTask
from trackkeras.domains.dimuon.record_options import RecordOptions
from trackkeras.domains.dimuon.simulation_options import PRESETS, GenerateOptions

if TYPE_CHECKING:
    from tfrecords_tools.schema import Schema


class Dimuon(Domain):
    """Hits of an event to the hit arrays and momenta of its mu+ and mu-."""

    name = "dimuon"
    summary = "SpinQuest-like spectrometer: hits of an event to its mu+ and mu-"
    tasks: ClassVar[Mapping[str, Task]] = {
        "finder": FinderTask(),
        "momentum": MomentumTask(),
        "quality": QualityTask(),
    }
    GenerateOptions = GenerateOptions
    generation_presets = PRESETS
    shard_function = "trackkeras.domains.dimuon.simulate:make_shard"
    IngestOptions = RecordOptions
    group = "group"
    padded = ("hit_detector", "hit_element", "hit_drift")

    def schema(self) -> Schema:
        """Return the record schema: padded hits, and truth of the two muons."""
        from trackkeras.domains.dimuon.records import dimuon_schema

        return dimuon_schema()

    def all_columns(self) -> Schema:
        """Return the schema of reconstructed records."""
        from trackkeras.domains.dimuon.records import dimuon_schema

        return dimuon_schema(reconstructed=True)

    def generation_schema(self, options: Options) -> Schema:
        """Return the record schema with as much room for hits as the sample needs."""
        from trackkeras.domains.dimuon.records import dimuon_schema

        assert isinstance(options, GenerateOptions)
        return dimuon_schema(options.row_hits())

    def ingest_schema(self, options: Options) -> Schema:
        """Return the record schema with as much room for hits and with the columns that are asked for."""
        from trackkeras.domains.dimuon.records import dimuon_schema

        assert isinstance(options, RecordOptions)
        return dimuon_schema(options.max_hits, reconstructed=options.reconstructed)

    def read_files(self, files: Sequence[Path], options: Options) -> Iterator[Rows]:
        """Yield the events of RUS files."""
        from trackkeras.domains.dimuon.records import read_rows

        assert isinstance(options, RecordOptions)
        return read_rows(files, options)

    def check_rows(self, rows: Rows) -> list[str]:
        """Return what contradicts itself in a sample."""
        from trackkeras.domains.dimuon.records import check_rows

        return check_rows(rows)


DOMAIN = Dimuon()

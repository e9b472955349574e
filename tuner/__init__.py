"""KerasTuner searches over presets: the space is YAML, each trial is a run of the one trainer.

`space` and `plan` describe a search and import nothing heavy; `oracles` propose, `hypermodel` builds and
fits, `search` runs trials in one process, `chief` and `worker` in several; `outcome`, `importance`, `figures`
and `report` tell what came out.
"""

"""KerasTuner searches over presets. The package is installed with the others and still empty."""

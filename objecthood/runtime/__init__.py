"""The machine under a run: devices, processes, signals, limits, files that are written whole."""

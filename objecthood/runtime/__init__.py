"""Runtime support: devices, processes, signals, limits, atomic file writes."""

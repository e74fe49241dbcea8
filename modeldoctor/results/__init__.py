"""What was measured, as plain frozen records over numpy arrays, and the files that hold them; no torch."""

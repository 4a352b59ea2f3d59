"""The command line: `slotproxy serve` (the default), `slotproxy demo`, `slotproxy --version`."""

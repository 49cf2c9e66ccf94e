"""The offline path: which device is told what, by which vendor, and what became of it."""

"""Benchmarks of llmc itself, run by hand: `python -m llmc.tools.bench.startup`."""

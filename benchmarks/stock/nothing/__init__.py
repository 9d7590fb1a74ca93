"""What the benchmarks run on Flower's own deployment runtime."""

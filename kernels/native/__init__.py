"""What all kernels in C share: the team of threads, vector mathematics, and the code that compiles and emits them."""

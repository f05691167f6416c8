"""Wrong kernels that their authors wrote without knowing the suspects, and whether their bugs are named."""

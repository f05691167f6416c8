"""What is wrong with a kernel that failed: known bugs, run on the same cases, that give the same numbers."""

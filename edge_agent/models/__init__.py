"""One file for each model family. A family knows tensors and boxes, and nothing of files."""

"""One file for each runtime. A runtime knows files and tensors, and nothing of boxes."""

"""What the heartbeat knows of process and machine: one file per reader, each tested on folders that imitate /proc and /sys."""

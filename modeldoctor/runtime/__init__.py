"""What a long run needs of its machine: memory, processes, interrupts, progress, device, safe files."""

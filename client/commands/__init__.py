"""A hospital's commands: `flops client …`."""

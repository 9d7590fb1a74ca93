"""A hospital's node: its data, and the Flower client app that trains and evaluates on it."""

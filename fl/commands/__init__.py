"""Commands of the part that everybody has."""

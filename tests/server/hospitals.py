"""Four hospitals' tables of different sizes, with values missing, and their schema."""

import numpy as np

SCHEMA = """
[target]
column = "sepsis"
classes = ["no", "yes"]

[columns.age]
kind = "numeric"
min = 0
max = 120
missing = "mean"

[columns.lactate]
kind = "numeric"
min = 0
missing = "mean"

[columns.ward]
kind = "categorical"
categories = ["icu", "general", "surgery"]
missing = "most-frequent"
"""

SIZES = {"north": 200, "south": 90, "east": 40, "west": 15}


def write_hospitals(folder, *, site_column=False):
    """Write the tables and the schema; return the arguments that name them."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    schema = folder / "schema.toml"
    schema.write_text(('site = "hospital"\n' if site_column else "") + SCHEMA)
    header = "age,lactate,ward,sepsis"
    tables = {}
    for name, size in SIZES.items():
        rows = []
        for _ in range(size):
            sick = rng.random() < 0.4
            age, lactate = rng.normal(70 if sick else 55, 9), abs(rng.normal(4.5 if sick else 1.2, 0.8))
            ward = rng.choice(["icu", "general", "surgery"], p=[0.6, 0.2, 0.2] if sick else [0.1, 0.6, 0.3])
            cells = [f"{min(age, 119):.1f}", f"{lactate:.2f}", ward]
            cells = ["" if rng.random() < 0.1 else cell for cell in cells]
            rows.append(",".join([*cells, "yes" if sick else "no"]))
        tables[name] = rows
    arguments = ["--schema", schema]
    if site_column:
        lines = [f"hospital,{header}"] + [f"{name},{row}" for name, rows in tables.items() for row in rows]
        (folder / "all.csv").write_text("\n".join(lines) + "\n")
        return [*arguments, "--data", folder / "all.csv"]
    for name, rows in tables.items():
        (folder / f"{name}.csv").write_text("\n".join([header, *rows]) + "\n")
        arguments += ["--data", folder / f"{name}.csv"]
    return arguments

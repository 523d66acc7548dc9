"""The JSON schemas of all option files, by which editors complete, explain and check them."""

import json
from pathlib import Path

from models.ablating.study import AblationOptions
from models.benchmarking.benchmark import BenchmarkOptions
from models.training.experiment import Experiment, schema
from utils.options.schema import SCHEMA_FILE, Schema, file_schema


def schemas() -> dict[str, Schema]:
    """Return the schemas of option files by their paths below `options`."""
    training = schema()
    return {
        SCHEMA_FILE: training,
        f"test/{SCHEMA_FILE}": file_schema("benchmark", BenchmarkOptions, shared=training),
        f"ablation/{SCHEMA_FILE}": file_schema("ablation", AblationOptions, Experiment, shared=training),
    }


def write_schemas(options: Path) -> list[Path]:
    """Write the schemas next to the option files below a folder. Return their paths."""
    paths = []
    for name, content in schemas().items():
        paths.append(options / name)
        lines = [f"{json.dumps(key)}: {json.dumps(shape)}" for key, shape in content.pop("$defs").items()]
        text = f'{json.dumps(content)[:-1]}, "$defs": {{\n' + ",\n".join(lines) + "\n}}\n"  # a definition a line
        paths[-1].write_text(text, encoding="utf-8")
    return paths

"""YAML that people write, with what they surely did not mean refused."""

from typing import Any

import yaml


def load_strictly(text: str) -> Any:
    """The content of ``text``, in YAML's safe subset. Raises YAMLError, also for a key that is given twice."""
    return yaml.load(text, Loader=_StrictLoader)


class _StrictLoader(yaml.SafeLoader):
    """Refuses what YAML would silently read as another floor: one of two equal keys, or 0:59 as 59 seconds."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of ``node``; raises YAMLError for a repeated key."""
        keys = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge")]
        seen: set[str] = set()
        for key in keys:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"'{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def number(self, node: yaml.ScalarNode) -> float:
        """The int or float of ``node``; raises YAMLError for a sexagesimal one."""
        if ":" in node.value:
            raise yaml.MarkedYAMLError(problem=f"'{node.value}' is no decimal number", problem_mark=node.start_mark)
        kind = node.tag.rpartition(":")[2]
        return self.construct_yaml_int(node) if kind == "int" else self.construct_yaml_float(node)


for _kind in ("int", "float"):
    _StrictLoader.add_constructor(f"tag:yaml.org,2002:{_kind}", _StrictLoader.number)

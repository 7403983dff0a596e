#!/usr/bin/env python3
"""Checks that no source files of a crate import each other in a circle.

An arrow leads from a file to each file whose items it imports with `use crate::…` or `use super::…`. Re-exports of a parent module count
as arrows to the file that defines the items where the name tells, otherwise to the parent. Declarations (`mod x;`) are no arrows, and
what follows `#[cfg(test)]` is left out. Exits with 1 and prints every circle if there is one."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
USE = re.compile(r"^\s*(?:pub(?:\([^)]*\))? )?use ((?:crate|super|self)\b[^;]*);", re.M)


def module_path(source: Path, file: Path) -> tuple[str, ...]:
    """Returns the path of the module in a file: () for lib.rs, ("a", "b") for a/b.rs and a/b/mod.rs."""
    parts = file.relative_to(source).with_suffix("").parts
    return parts[:-1] if parts[-1] in ("mod", "lib", "main") else parts


def leaves(tree: str, prefix: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Expands `a::{b, c::d}` to the paths a::b and a::c::d."""
    tree = tree.strip()
    start = tree.find("{")
    if start < 0:
        return [prefix + tuple(part.strip().split(" as ")[0] for part in tree.split("::"))]
    head = tuple(part for part in tree[:start].split("::") if part)
    depth, item, found = 0, "", []
    for char in tree[start + 1 : tree.rindex("}")] + ",":
        depth += (char == "{") - (char == "}")
        if char == "," and depth == 0:
            if item.strip():
                found += leaves(item, prefix + head)
            item = ""
        else:
            item += char
    return found


def imports(path: tuple[str, ...], text: str, modules: dict[tuple[str, ...], Path]) -> set[tuple[str, ...]]:
    """Returns the modules whose items a file imports, `path` being its own module."""
    found = set()
    for use in USE.findall(text.split("#[cfg(test)]")[0]):
        for leaf in leaves(use):
            absolute = list(path)
            for part in leaf:
                if part == "crate":
                    absolute = []
                elif part == "super":
                    absolute = absolute[:-1]
                elif part != "self":
                    absolute.append(part)
            while tuple(absolute) not in modules:
                absolute.pop()
            found.add(tuple(absolute))
    return found - {path}


def circles(arrows: dict[tuple[str, ...], set[tuple[str, ...]]]) -> list[list[tuple[str, ...]]]:
    """Returns the groups of modules that reach each other."""
    reached = {}
    for start in arrows:
        seen, waiting = set(), [start]
        while waiting:
            for other in arrows[waiting.pop()] - seen:
                seen.add(other)
                waiting.append(other)
        reached[start] = seen
    groups = {tuple(sorted(b for b in reached[a] if a in reached[b])) for a in arrows if a in reached[a]}
    return [list(group) for group in sorted(groups)]


def main() -> int:
    failed = False
    sources = [ROOT / name / "src" for name in ("client", "server", "wsproxy", "benches")]
    for source in sources + sorted((ROOT / "crates").glob("*/src")):
        modules = {module_path(source, file): file for file in source.rglob("*.rs") if file.name != "main.rs"}
        arrows = {path: imports(path, file.read_text(), modules) for path, file in modules.items()}
        for group in circles(arrows):
            failed = True
            files = ", ".join(str(modules[path].relative_to(ROOT)) for path in group)
            print(f"check_circles: these files import each other in a circle: {files}", file=sys.stderr)
    if not failed:
        print("no source files import each other in a circle")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

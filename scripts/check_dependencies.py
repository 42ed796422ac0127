#!/usr/bin/env python3
"""Checks genir's dependencies against deny.toml: licences, duplicate versions, sources; advisories where that can be.

Licences, versions and sources come from `cargo metadata`: this needs Python 3.11 alone and takes seconds, while
cargo-deny takes longer to build than genir's own checks to run. Where cargo-deny is installed (`cargo install
cargo-deny --locked`), it checks the same file too, and the database of advisories, which it fetches from GitHub. Where
that cannot be fetched, the check says so and goes on.

    python3 scripts/check_dependencies.py
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CRATES_IO = "registry+https://github.com/rust-lang/crates.io-index"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metadata", type=Path, help="output of `cargo metadata`, instead of calling it")
    arguments = parser.parse_args()
    policy = tomllib.loads((ROOT / "deny.toml").read_text(encoding="utf-8"))
    if arguments.metadata:
        metadata = json.loads(arguments.metadata.read_text(encoding="utf-8"))
    else:
        metadata = ask_cargo(policy)
        only_built(metadata, policy)

    crates = {package["id"]: package for package in metadata["packages"]}
    edges = {node["id"]: [to["pkg"] for to in node["deps"]] for node in metadata["resolve"]["nodes"]}
    used = reached(edges, [metadata["resolve"]["root"]])
    problems = [
        *licence_problems(policy, crates, used),
        *source_problems(crates, used),
        *duplicate_problems(policy, crates, edges, used),
    ]
    for problem in sorted(problems):
        print(f"error: {problem}")
    if problems:
        print(f"{len(problems)} problems with dependencies; deny.toml has the rules and their reasons")
        return 1
    print(f"{len(used) - 1} dependencies: licences, duplicate versions and sources are as deny.toml wants them")
    return 0 if arguments.metadata else ask_cargo_deny()


def ask_cargo(policy):
    platforms = [word for target in policy["graph"]["targets"] for word in ("--filter-platform", target)]
    return json.loads(cargo(policy, "metadata", "--format-version", "1", *platforms))


def only_built(metadata, policy):
    """Removes the crates that no build has: `cargo metadata` also lists optional ones that nothing asks for."""
    platforms = [word for target in policy["graph"]["targets"] for word in ("--target", target)]
    lines = cargo(policy, "tree", "--prefix", "none", "--format", "{p}", *platforms).splitlines()
    built = {tuple(line.split()[:2]) for line in lines if line}
    crates = metadata["packages"]
    built = {crate["id"] for crate in crates if (crate["name"], f"v{crate['version']}") in built}
    nodes = [node for node in metadata["resolve"]["nodes"] if node["id"] in built]
    for node in nodes:
        node["deps"] = [to for to in node["deps"] if to["pkg"] in built]
    metadata["resolve"]["nodes"] = nodes


def cargo(policy, *arguments):
    features = ["--all-features"] if policy["graph"]["all-features"] else []
    command = ["cargo", *arguments, "--locked", *features]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def reached(edges, starts):
    """Returns the crates that `starts` depend on, and themselves."""
    found, rest = set(), list(starts)
    while rest:
        crate = rest.pop()
        if crate not in found:
            found.add(crate)
            rest += edges[crate]
    return found


def licence_problems(policy, crates, used):
    rules = policy["licenses"]
    clarified = {rule["crate"]: rule["expression"] for rule in rules.get("clarify", [])}
    for crate in (crates[id] for id in used):
        expression = clarified.get(crate["name"], crate["license"])
        where = f"{crate['name']} {crate['version']}"
        if not expression:
            yield f"{where}: names no licence; read its files and add it to licenses.clarify"
            continue
        own = [rule["allow"] for rule in rules["exceptions"] if rule["crate"] == crate["name"]]
        allowed = {licence for licences in [rules["allow"], *own] for licence in licences}
        try:
            if not is_allowed(expression, allowed):
                yield f"{where}: the licence is {expression}, which licenses.allow does not have"
        except ValueError as error:
            yield f"{where}: the licence {expression!r} cannot be read: {error}"


def is_allowed(expression, allowed):
    """Whether an SPDX expression can be satisfied with the allowed licences. A slash is an old form of OR."""
    words = re.findall(r"[()]|[^\s()]+", expression.replace("/", " OR "))

    def take():
        if not words:
            raise ValueError("it ends early")
        return words.pop(0)

    def either():
        value = both()
        while words[:1] == ["OR"]:
            take()
            value = both() or value
        return value

    def both():
        value = one()
        while words[:1] == ["AND"]:
            take()
            value = one() and value
        return value

    def one():
        word = take()
        if word == "(":
            value = either()
            if take() != ")":
                raise ValueError("a bracket is not closed")
            return value
        if word in (")", "OR", "AND", "WITH"):
            raise ValueError(f"{word} is not a licence")
        if words[:1] == ["WITH"]:
            take()
            word = f"{word} WITH {take()}"
        return word in allowed

    value = either()
    if words:
        raise ValueError(f"{words[0]} is not expected")
    return value


def source_problems(crates, used):
    for crate in (crates[id] for id in used):
        # The project itself has no source.
        if crate["source"] not in (None, CRATES_IO):
            yield f"{crate['name']} {crate['version']}: it comes from {crate['source']}, expected crates.io"


def duplicate_problems(policy, crates, edges, used):
    skipped = {rule["crate"] for rule in policy["bans"]["skip-tree"]}
    unused = skipped - {crates[id]["name"] for id in used}
    for name in unused:
        yield f"{name}: bans.skip-tree names it, and it is no dependency"
    theirs = reached(edges, [id for id in used if crates[id]["name"] in skipped])
    versions = defaultdict(list)
    for id in used - theirs:
        versions[crates[id]["name"]].append(id)
    for name, several in versions.items():
        if len(several) > 1:
            users = defaultdict(list)
            for user, to in edges.items():
                for id in set(to) & set(several):
                    users[crates[id]["version"]].append(crates[user]["name"])
            found = "; ".join(f"{version} by {', '.join(sorted(names))}" for version, names in sorted(users.items()))
            yield f"{name}: {len(several)} versions: {found}"


def ask_cargo_deny():
    """Runs cargo-deny where it is installed, and its advisories where their database can be had."""
    if not shutil.which("cargo-deny"):
        print("advisories: not checked, cargo-deny is not installed (`cargo install cargo-deny --locked`)")
        return 0

    def deny(*arguments):
        return subprocess.run(["cargo", "deny", "--all-features", *arguments], cwd=ROOT).returncode

    if deny("check", "licenses", "bans", "sources") != 0:
        return 1
    if deny("fetch", "db") != 0:
        print("advisories: not checked, their database cannot be fetched")
        return 0
    return min(1, deny("check", "--disable-fetch", "advisories"))


if __name__ == "__main__":
    sys.exit(main())

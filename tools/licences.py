"""Print the name, version and license of every installed package, from its own metadata, for `make audit`."""

from importlib.metadata import Distribution, distributions


def license_name(package: Distribution) -> str:
    """The license's short name: from the newer field, the classifiers, or the first line of the older field."""
    about = package.metadata
    classified = [text.rpartition(" :: ")[2] for text in about.get_all("Classifier", [])
                  if text.startswith("License ::")]
    old = (about.get("License") or "").strip().partition("\n")[0]
    return about.get("License-Expression") or ", ".join(classified) or old or "unknown"


def table() -> list[tuple[str, str, str]]:
    """A row for each package, in order of their names."""
    rows = {(package.metadata["Name"], package.version): license_name(package) for package in distributions()}
    return [(name, version, rows[name, version]) for name, version in sorted(rows, key=lambda row: row[0].lower())]


if __name__ == "__main__":
    for row in table():
        print("{:32} {:20} {}".format(*row))

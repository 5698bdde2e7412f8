"""Python and the packages against the lower bounds that this package declares."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from avemo_jax.doctor.findings import Finding, note, ok, wrong

PACKAGE = "avemo_jax"
_FOR_DEVELOPERS = ("test", "dev")  # nobody misses them who only uses the library


def check_packages() -> Iterator[Finding]:
    """Python, every required package, every extra."""
    try:
        about = metadata.metadata(PACKAGE)
    except metadata.PackageNotFoundError:
        yield wrong("packages", f"{PACKAGE} is not installed", "in its checkout: pip install -e .")
        return
    yield _python(SpecifierSet(about["Requires-Python"] or ""))
    requirements = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    core = [requirement for requirement in requirements if _applies(requirement)]
    lacking = [lack for requirement in core if (lack := what_lacks(requirement))]
    for text, needed in lacking:
        yield wrong("packages", text, f"pip install '{needed}'")
    if not lacking:
        yield ok("packages", f"{PACKAGE} {about['Version']} and the {len(core)} packages it needs")
    for extra in about.get_all("Provides-Extra") or ():
        members = [r for r in requirements if r not in core and _applies(r, extra)]
        yield from _extra(extra, members)


def lacking_of_extra(name: str) -> list[str]:
    """What an extra of this package needs and is not there, a few words each."""
    try:
        requirements = [Requirement(text) for text in metadata.requires(PACKAGE) or ()]
    except metadata.PackageNotFoundError:
        return [f"{PACKAGE} is not installed"]
    return _lacking(r for r in requirements if not _applies(r) and _applies(r, name))


def what_lacks(requirement: Requirement) -> tuple[str, str] | None:
    """None when it is there, new enough; else what is the matter, and what to install."""
    bound = f"{requirement.name}{requirement.specifier}"
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return f"{requirement.name} is missing", bound
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} {version} is installed, {requirement.specifier} is needed", bound
    # `jax[tpu]` is there when what its own extra asks for is.
    for extra in requirement.extras:
        for text in metadata.requires(requirement.name) or ():
            inner = Requirement(text)
            if not _applies(inner) and _applies(inner, extra) and (lack := what_lacks(inner)):
                return lack[0], f"{requirement.name}[{extra}]{requirement.specifier}"
    return None


def _applies(requirement: Requirement, extra: str = "") -> bool:
    """On this machine, when `extra` is asked for."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _python(wanted: SpecifierSet) -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if version in wanted:
        return ok("python", f"{version}, {sys.executable}")
    return wrong("python", f"{version} is running, {wanted} is needed", "make a venv with a newer Python")


def _lacking(requirements: Iterable[Requirement]) -> list[str]:
    return [lack[0] for requirement in requirements if (lack := what_lacks(requirement))]


def _extra(name: str, members: list[Requirement]) -> Iterator[Finding]:
    lacking = _lacking(members)
    if not lacking:
        yield ok("extras", f"{name}: {', '.join(sorted(r.name for r in members))}")
    elif name not in _FOR_DEVELOPERS:
        yield note("extras", f"{name}: {', '.join(lacking)}", f"pip install '{PACKAGE}[{name}]'")

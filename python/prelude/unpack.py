"""Unpacks wheels, in a process of its own: `unpack.py FOLDER NAMES OS OUR_OS WHEEL...`

A later wheel wins over an earlier one. Into the file NAMES goes what can be imported from FOLDER
afterwards: the packages and modules at the top of it, each in a line.
"""

import compileall
import os
import pathlib
import re
import sys
import sysconfig
import zipfile

PYTHON = sys.version_info[:2]
SUFFIXES = (".py", ".so")
SCHEME = {"purelib": "", "platlib": "", "scripts": "bin", "headers": "include", "data": "data"}


def glibc():
    """The version of the C library, or none."""
    try:
        name, version = os.confstr("CS_GNU_LIBC_VERSION").split()
        return tuple(map(int, version.split("."))) if name == "glibc" else None
    except (OSError, ValueError, AttributeError):
        return None


def number(tag, kind):
    """(3, 11) of cp311."""
    match = re.fullmatch(rf"{kind}(\d)(\d*)", tag)
    return match and (int(match[1]), int(match[2] or 0))


def fits_python(python, abi):
    cpython, any_python = number(python, "cp"), number(python, "py")
    if abi == "none":
        return (any_python is not None and any_python <= PYTHON) or cpython == PYTHON
    if abi == "abi3":
        return cpython is not None and cpython[0] == PYTHON[0] and cpython <= PYTHON
    free = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return cpython == PYTHON and abi == f"cp{PYTHON[0]}{PYTHON[1]}{free}"


def fits_platform(tag, same_os):
    if tag == "any":
        return True
    machine = os.uname().machine
    many = re.fullmatch(rf"manylinux_(\d+)_(\d+)_{machine}", tag)
    old = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}
    has = glibc()
    if many:
        return has is not None and has >= (int(many[1]), int(many[2]))
    if tag.startswith("manylinux"):
        name, _, other = tag.partition("_")
        return has is not None and other == machine and has >= old.get(name, (99,))
    if tag.startswith("musllinux"):
        return has is None and tag.endswith(f"_{machine}")
    # Built on one system, it is good for that one.
    return same_os and tag == re.sub(r"[-.]", "_", sysconfig.get_platform())


def fits(wheel, same_os):
    parts = wheel.removesuffix(".whl").split("-")
    if len(parts) < 5:
        return False
    pythons, abis, platforms = (part.split(".") for part in parts[-3:])
    good = any(fits_python(python, abi) for python in pythons for abi in abis)
    return good and any(fits_platform(platform, same_os) for platform in platforms)


def target(name):
    """Where a member of a wheel belongs, or None."""
    parts = pathlib.PurePosixPath(name).parts
    if not parts or parts[0] == "/" or ".." in parts or "\\" in name:
        raise ValueError(f"{name!r} leads out of its wheel")
    if parts[0].endswith(".data"):
        if len(parts) < 3 or parts[1] not in SCHEME:
            return None
        return pathlib.PurePath(SCHEME[parts[1]], *parts[2:])
    return pathlib.PurePath(*parts)


def unpack(wheel, folder):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = target(member.filename)
            if path is None or member.is_dir():
                continue
            path = folder / path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            with archive.open(member) as source, open(path, "wb") as copy:
                while piece := source.read(1 << 20):
                    copy.write(piece)
            if member.external_attr >> 16 & 0o111:
                path.chmod(0o755)


def importable(folder, prefix=""):
    """Packages and modules, the lowest that nobody else can have a part of."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        name = entry.name.partition(".")[0]
        if not name.isidentifier():
            continue
        if entry.is_dir():
            if "." in entry.name or entry.name == "__pycache__":
                continue
            if os.path.exists(os.path.join(entry.path, "__init__.py")):
                yield prefix + name
            else:
                yield from importable(entry.path, f"{prefix}{name}.")
        elif entry.name.endswith(SUFFIXES):
            yield prefix + name


def main(folder, names, made_on, here, *wheels):
    os.nice(10)
    unfit = [w for w in map(os.path.basename, wheels) if not fits(w, made_on in ("", here))]
    if unfit:
        print(f"made for another platform or Python: {', '.join(unfit)}")
        return "unfit"
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    for wheel in wheels:
        unpack(wheel, folder)
    # Else the first import compiles, and whoever waits for Python waits for that.
    compileall.compile_dir(folder, quiet=2)
    pathlib.Path(names).write_text(
        "".join(f"{name}\n" for name in dict.fromkeys(importable(folder)))
    )
    return "0"


try:
    code = main(*sys.argv[1:])
except Exception as error:
    print(f"{type(error).__name__}: {error}")
    code = "1"
print(f"\ngeartrain: {code}", flush=True)

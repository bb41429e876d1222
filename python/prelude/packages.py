"""Folders of requirements: which of them modules are imported from."""

import importlib
import importlib.machinery
import site
import sys
import sysconfig
import threading
import types

OWN_CLOUDPICKLE = "_geartrain_cloudpickle"
FOLDERS = set()
LOCK = threading.RLock()
STANDARD = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")]


def place():
    """Where a folder comes into sys.path: behind the standard library, before all packages."""
    standard = {*STANDARD, *(f"{path}/lib-dynload" for path in STANDARD)}
    return max((at for at, path in enumerate(sys.path) if path in standard), default=-1) + 1


def inside(module, folder):
    """Whether a module was loaded from a folder."""
    path = getattr(module, "__file__", None)
    return isinstance(path, str) and path.startswith(folder + "/")


def comes_from(name, folder):
    """Whether a module of this name would be imported from a folder."""
    if name in sys.builtin_module_names or name in sys.stdlib_module_names:
        return False
    if "." in name:
        # A part of a package that lies in many folders: theirs is a matter of sys.path alone.
        return True
    spec = importlib.machinery.PathFinder.find_spec(name)
    return spec is not None and str(spec.origin).startswith(folder + "/")


def prefer(wanted):
    """Packages are looked for in these folders, the last one first."""
    order = [folder for folder, _ in reversed(wanted)]
    with LOCK:
        at = place()
        if sys.path[at : at + len(order)] != order:
            for folder, names in wanted:
                use(folder, names)


def use(folder, names):
    """Packages are looked for in this folder first. Modules that came from elsewhere and are in it
    as well are loaded anew; whoever has the old ones keeps them."""
    FOLDERS.add(folder)
    new = folder not in sys.path
    if not new:
        sys.path.remove(folder)
    sys.path.insert(place(), folder)
    importlib.invalidate_caches()
    if new:
        # For its .pth files; it stays where it is in the path.
        site.addsitedir(folder, {folder})
    tops = [name for name in names if comes_from(name, folder)]
    for name, module in list(sys.modules.items()):
        below = any(name == top or name.startswith(top + ".") for top in tops)
        if below and not inside(module, folder):
            sys.modules.pop(name, None)


def forget(folder):
    """Nothing is imported from this folder any more."""
    with LOCK:
        FOLDERS.discard(folder)
        if folder in sys.path:
            sys.path.remove(folder)
    importlib.invalidate_caches()
    for name, module in list(sys.modules.items()):
        if inside(module, folder):
            sys.modules.pop(name, None)


def load_own_cloudpickle():
    """The cloudpickle of the system under a name of our own. What functions travel by names its
    parts: were it the one that requirements bring, or replace, what one server writes another could
    not read, nor this one after its next start."""
    with LOCK:
        # Another thread may have been as quick.
        if hasattr(sys.modules.get(OWN_CLOUDPICKLE), "CloudPickler"):
            return
        system = [path for path in sys.path if path not in FOLDERS]
        find = importlib.machinery.PathFinder.find_spec
        spec = find("cloudpickle", system) or find("cloudpickle")
        if spec is None or not spec.submodule_search_locations:
            raise ModuleNotFoundError("No module named 'cloudpickle'", name="cloudpickle")
        package = types.ModuleType(OWN_CLOUDPICKLE)
        package.__path__ = list(spec.submodule_search_locations)
        sys.modules[OWN_CLOUDPICKLE] = package
        parts = importlib.import_module(OWN_CLOUDPICKLE + ".cloudpickle")
        if not hasattr(parts, "CloudPickler"):
            # Before version 3.
            parts = importlib.import_module(OWN_CLOUDPICKLE + ".cloudpickle_fast")
        package.CloudPickler = parts.CloudPickler

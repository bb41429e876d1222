"""How callbacks travel: to the RDB and AOF, to replicas and to other shards, by cloudpickle.

A function of a script is shipped by value, with the globals it names. Where it arrives, its globals
are those of its session there: names that the session has already stay as they are, so that all
functions of a session share one state, and the names of the prelude are those of the receiver.
"""

import builtins
import functools
import io
import pickle
import types

import _geartrain_cloudpickle as cloudpickle

NAMES, PRELUDE = "names", "prelude"
CLASSES = ("GearsBuilder", "GB")
"""Each session has these of its own."""
OWN, IMPORTS = {}, {}
"""Filled once: the prelude is the same for as long as the process lives."""


class Shipper(cloudpickle.CloudPickler):
    """Ships one callback of the session with these names."""

    def __init__(self, file, names, prelude):
        super().__init__(file, protocol=4)
        self.names, self.prelude = names, prelude
        self.known = {**own(prelude), id(names): NAMES}
        for name in CLASSES:
            if name in names and is_own(prelude, name, names[name]):
                self.known[id(names[name])] = name

    def persistent_id(self, value):
        return self.known.get(id(value))

    def _dynamic_function_reduce(self, function):
        twin = function.__dict__.get("__geartrain__")
        if type(twin) is tuple and twin[0] is self.prelude["_TOKEN"] and twin[1] == "zero":
            by_key = function.__code__.co_argcount == 3
            factory = self.prelude["_from_zero_by_key" if by_key else "_from_zero"]
            return factory, twin[2:]
        make, arguments, state, *_ = super()._dynamic_function_reduce(function)
        names = function.__globals__
        if names is self.names or names is self.prelude:
            code, _, *rest = arguments
            arguments = (code, names, *rest)
            attributes, slots = state
            travels = {
                name: value
                for name, value in slots["__globals__"].items()
                if not is_own(self.prelude, name, value)
            }
            state = attributes, {**slots, "__globals__": travels}
        return make, arguments, state, None, None, set_state


def own(prelude):
    """The names by which the prelude's own functions and classes travel, by their address. What it
    has imported is found where it is from."""
    if id(prelude) not in OWN:
        own = {id(prelude): PRELUDE}
        for name, value in prelude.items():
            home = getattr(value, "__module__", None)
            if isinstance(value, types.ModuleType) and value.__name__ != "redisgears":
                IMPORTS[name] = value
            elif isinstance(value, (type, types.FunctionType)) and home == prelude["__name__"]:
                own[id(value)] = name
            elif isinstance(value, type) and home != "redisgears":
                IMPORTS[name] = value
        OWN[id(prelude)] = own
    return OWN[id(prelude)]


def is_own(prelude, name, value):
    """Whether a global is the prelude's own, which every session has."""
    if name in CLASSES:
        return isinstance(value, type) and issubclass(value, prelude["GearsBuilder"])
    return name in prelude and prelude[name] is value


def set_state(function, state):
    """Fills a function that just arrived; globals that exist already stay as they are."""
    attributes, slots = state
    slots = dict(slots)
    function.__dict__.update(attributes)
    names = function.__globals__
    for name, value in slots.pop("__globals__").items():
        # What a script has made of the name of a module goes before the module.
        if name not in names or names[name] is IMPORTS.get(name, IMPORTS):
            names[name] = value
    names.setdefault("__builtins__", builtins)
    slots.pop("_cloudpickle_submodules", None)
    cells, values = function.__closure__ or (), slots.pop("__closure__") or ()
    for cell, shipped in zip(cells, values, strict=True):
        try:
            cell.cell_contents = shipped.cell_contents
        except ValueError:
            continue  # a variable that has no value yet
    for name, value in slots.items():
        setattr(function, name, value)


class Receiver(pickle.Unpickler):
    """Receives a callback into the session with these names."""

    def __init__(self, file, names, prelude):
        super().__init__(file)
        self.names, self.prelude = names, prelude

    def persistent_load(self, name):
        if name == NAMES:
            return self.names
        if name == PRELUDE:
            return self.prelude
        # Of other names a script may have made something else.
        for place in (self.names, self.prelude) if name in CLASSES else (self.prelude,):
            if name in place:
                return place[name]
        raise pickle.UnpicklingError(f"this version of geartrain has no {name}")


def ship(function, names, prelude):
    """A callback as bytes."""
    name = own(prelude).get(id(function))
    if name is not None:
        return shipped_name(name)
    file = io.BytesIO()
    Shipper(file, names, prelude).dump(function)
    return file.getvalue()


@functools.cache
def shipped_name(name):
    """What names a function of the prelude."""
    return pickle.PROTO + b"\x04" + pickle.PERSID + name.encode() + b"\n" + pickle.STOP


def receive(shipped, names, prelude):
    """A callback from bytes."""
    own(prelude)  # and with it IMPORTS
    return Receiver(io.BytesIO(shipped), names, prelude).load()

"""The engine's state in the middle of its life, so that a journal need not begin at its start.

Written with the pickle protocol, read by an unpickler that builds nothing but values of the pure
packages and of a few builtin containers: those do no I/O (`tests/unit/test_purity.py`). The engine,
its table, its configuration and its list of operations are named, not written.
"""

from __future__ import annotations

import importlib
import io
import pickle
from types import BuiltinMethodType, FunctionType, MethodType

from worker.engine.config import EngineConfig
from worker.engine.engine import Engine
from worker.errors import WorkerError
from worker.parking.slots import SlotTable

PROTOCOL = 4
_NAMED = ("_config", "_table", "_ops")
_PURE = ("worker.engine.", "worker.parking.", "worker.kapi.")
_CONTAINERS = {
    "builtins": frozenset({"set", "frozenset", "list", "dict", "tuple", "bytearray"}),
    "collections": frozenset({"OrderedDict", "defaultdict", "deque"}),
    "itertools": frozenset({"count"}),
}


class CheckpointError(WorkerError):
    """The state cannot be written, or is of another version."""


class _Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, engine: Engine) -> None:
        super().__init__(file, PROTOCOL)
        self._engine = engine

    def persistent_id(self, value: object) -> object:
        engine = self._engine
        if value is engine:
            return ("engine",)
        for name in _NAMED:
            if value is getattr(engine, name):
                return (name,)
        if isinstance(value, MethodType):
            return ("method", value.__self__, value.__name__)
        if isinstance(value, BuiltinMethodType) and isinstance(value.__self__, list | dict | set):
            return ("method", value.__self__, value.__name__)
        return None


class _Reader(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, engine: Engine) -> None:
        super().__init__(file)
        self._engine = engine

    def persistent_load(self, pid: object) -> object:
        match pid:
            case ("engine",):
                return self._engine
            case (str() as name,) if name in _NAMED:
                return getattr(self._engine, name)
            case ("method", owner, str() as name) if self._may_call(owner, name):
                return getattr(owner, name)
        raise CheckpointError("the state names something unknown")

    @staticmethod
    def _may_call(owner: object, name: str) -> bool:
        if isinstance(owner, list | dict | set):
            return name in {"append", "get", "add"}
        return type(owner).__module__.startswith(_PURE) and not name.startswith("__")

    def find_class(self, module: str, name: str) -> object:
        if name in _CONTAINERS.get(module, ()):
            return getattr(importlib.import_module(module), name)
        if module.startswith(_PURE) and name.isidentifier():
            found = getattr(importlib.import_module(module), name, None)
            own = getattr(found, "__module__", "")
            if isinstance(found, type | FunctionType) and own.startswith(_PURE):
                return found
        raise CheckpointError(f"the state holds {module}.{name}")


def save_engine(engine: Engine) -> bytes:
    """The state; only between inputs, with no operation left to take. Raises CheckpointError."""
    state = {
        name: value
        for name, value in vars(engine).items()
        if name not in _NAMED and not name.startswith("journal")
    }
    file = io.BytesIO()
    try:
        _Writer(file, engine).dump(state)
    except Exception as error:  # whatever a future engine holds must not hurt the worker
        raise CheckpointError(f"the state cannot be written: {error}") from error
    return file.getvalue()


def load_engine(state: bytes, config: EngineConfig, table: SlotTable) -> Engine:
    """An engine in that state. Raises CheckpointError, for instance for another version's."""
    engine = Engine(config, table)
    try:
        vars(engine).update(_Reader(io.BytesIO(state), engine).load())
    except CheckpointError:
        raise
    except Exception as error:  # a state of another version fails anywhere
        raise CheckpointError(f"the state cannot be read: {error}") from error
    return engine

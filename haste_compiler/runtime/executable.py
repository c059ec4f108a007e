"""One network compiled for one input signature: machine code, packed weights, and how to call it."""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import numpy as np
import tvm
from tvm import relax

from haste_compiler.codegen.library import Code
from haste_compiler.codegen.program import Program, layers_of
from haste_compiler.codegen.target import machine_of
from haste_compiler.errors import MisfitError, TargetError, first_line
from haste_compiler.fallback.call import Caller
from haste_compiler.forking import Lock
from haste_compiler.interrupts import deferred_interrupts
from haste_compiler.methods.registry import method
from haste_compiler.methods.statistics import LayerStatistics
from haste_compiler.runtime.device import finish, launching, on_device
from haste_compiler.runtime.huge_pages import place
from haste_compiler.runtime.threads import began_process, elsewhere, with_threads


def to_torch(tensor: Any) -> Any:
    """A TVM tensor as a PyTorch tensor, on the same memory."""
    from torch.utils.dlpack import from_dlpack

    return from_dlpack(tensor)


def _here(function: Callable[[], list[Any]]) -> list[Any]:
    return function()


class Executable:
    """Machine code for one input signature. It needs PyTorch only where that runs a part of the network.

    Args:
        code: what ``codegen.build`` returned.
        program: how to call it.
        threads: threads of TVM's pool that work on it.
        missing: what this machine lacks to run it; then it can be saved, but not called.

    Attributes:
        code: the same.
        constants: packed weights and tables, as TVM tensors.
        device: where they are, and the code runs.
        records, outputs, kernels, batch, fallbacks: see ``Program``.
        pool: called with the number of threads and a function: returns what that does, on so many threads.
    """

    def __init__(self, code: Code, program: Program, threads: int, missing: Sequence[str] = ()) -> None:
        self.code, self.records = code, program.records
        self.outputs, self.kernels, self.batch = program.outputs, program.kernels, program.batch
        self._threads, self._missing = threads, missing
        self.fallbacks = list(program.fallbacks)
        self.pool: Callable[[int, Callable[[], list[Any]]], list[Any]] = with_threads
        self.device = tvm.cpu() if missing else machine_of(code.target).device
        self._on_card = self.device != tvm.cpu()
        caller = Caller.of(self.fallbacks, machine_of(code.target).torch_devices[-1]) if self.fallbacks else None
        self._calls: Callable[[], contextlib.AbstractContextManager[None]] = (
            contextlib.nullcontext if caller is None else caller.running
        )
        placed = iter(place([constant for constant in program.constants if isinstance(constant, np.ndarray)]))
        self.constants = [
            on_device(
                tvm.runtime.from_dlpack(next(placed)) if isinstance(constant, np.ndarray) else constant, self.device
            )
            for constant in program.constants
        ]
        self._constant_addresses = {constant.data_ptr() for constant in self.constants}
        self._results = self.outputs + sum(record.statistics for record in self.records)
        self._values = [np.array(record.values, np.float32) for record in self.records]
        # A pool keeps what it gave out by its size: for ever new batches it would grow and grow.
        memory = None if program.batch is None else "naive"
        self._machine = None if missing else relax.VirtualMachine(code.module, self.device, memory)
        self._main = None if self._machine is None else self._machine["main"]
        # The machine keeps a call's values in itself: calls take turns.
        self._turn = Lock(brief=True)
        self._arguments: list[Any] = []
        self._refresh()

    @property
    def constant_bytes(self) -> int:
        """Size of the packed weights and tables."""
        return sum(math.prod(constant.shape) * 4 for constant in self.constants)

    @property
    def arity(self) -> int:
        """How many arguments the machine code takes.

        Raises:
            TargetError: this machine can't run the code.
        """
        if self._machine is None:
            self._refuse()
        return int(self._machine.module["get_function_arity"]("main"))

    def values(self, index: int) -> tuple[float, ...]:
        """The parameters' values that record ``index`` uses now."""
        return tuple(float(value) for value in self._values[index])

    def steer(self, index: int, values: Sequence[float]) -> None:
        """Give record ``index`` other values, from the next call on."""
        self._values[index] = np.array(values, np.float32)
        self._refresh()

    def _refresh(self) -> None:
        # A new list: a call that is under way keeps the old one.
        parameters = [tvm.runtime.tensor(values, self.device) for values in self._values]
        # What a card is sent arrives before any stream uses it.
        self.device.sync()
        self._arguments = [*parameters, *self.constants]

    def run(self, inputs: Sequence[Any], convert: Callable[[Any], Any] = to_torch) -> tuple[list[Any], list[Any]]:
        """Outputs, and the statistics of every record as TVM tensors.

        Args:
            inputs: contiguous tensors, PyTorch's or NumPy's. A card's code takes those on the CPU too: they are copied,
                and the outputs are on the CPU then.
            convert: makes what the caller wants of an output, a TVM tensor.

        Raises:
            TargetError: this machine can't run the code.
        """
        if self._main is None:
            self._refuse()
        tensors = [tvm.runtime.tensor(x) if isinstance(x, np.ndarray) else tvm.runtime.from_dlpack(x) for x in inputs]
        if self._on_card:
            return self._run_on_card(self._main, tensors, convert)
        main, arguments, calls = self._main, self._arguments, self._calls()

        def call() -> list[Any]:
            with calls:
                return self._checked(main(*tensors, *arguments))

        with self._turn.lock:
            # Of the threads that PyTorch would ask, none may be there.
            run_in = elsewhere if self.fallbacks and began_process() else _here
            results = run_in(lambda: self.pool(self._threads, call))
        outputs = results[: self.outputs]
        made = [convert(result.copyto(tvm.cpu()) if self._is_known(result, tensors) else result) for result in outputs]
        return made, results[self.outputs :]

    def _run_on_card(
        self, main: Callable[..., Any], given: list[Any], convert: Callable[[Any], Any]
    ) -> tuple[list[Any], list[Any]]:
        tensors = [on_device(tensor, self.device) for tensor in given]
        home = tvm.cpu() if all(tensor.device == tvm.cpu() for tensor in given) else self.device
        if home != self.device:
            self.device.sync()
        with self._turn.lock, launching(self.device), self._calls():
            results = self._checked(main(*tensors, *self._arguments))
            if home != self.device:
                finish(self.device)
            outputs = []
            for result in results[: self.outputs]:
                copied = home != self.device or self._is_known(result, tensors)
                outputs.append(convert(result.copyto(home) if copied else result))
        if home != self.device:
            self.device.sync()
        return outputs, results[self.outputs :]

    def _checked(self, results: Any) -> list[Any]:
        if len(results) != self._results:
            raise MisfitError(
                f"the machine code returns {len(results)} tensors, of which {self._results} are described"
            )
        return list(results)

    def _is_known(self, result: Any, inputs: Sequence[Any]) -> bool:
        """Whether an output is an input or a constant as it is: the caller gets a copy to do with what he likes."""
        address = result.data_ptr()
        return address in self._constant_addresses or any(address == tensor.data_ptr() for tensor in inputs)

    def _refuse(self) -> NoReturn:
        name = machine_of(self.code.target).name
        raise TargetError(f"code for {name} can't run here: this machine has no {', '.join(self._missing)}")

    def run_with_stats(
        self, inputs: Sequence[Any], convert: Callable[[Any], Any] = to_torch
    ) -> tuple[list[Any], dict[str, LayerStatistics]]:
        """Run once, as ``run`` does, and return the outputs and what every layer of a method did, by name."""
        outputs, statistics = self.run(inputs, convert)
        finish(self.device)
        arrays = [numbers.numpy() for numbers in statistics]
        stats: dict[str, LayerStatistics] = {}
        for index, record in enumerate(self.records):
            own, arrays = arrays[: record.statistics], arrays[record.statistics :]
            try:
                stats.update(method(record.method).read(record, self.values(index), own))
            except (LookupError, TypeError, ValueError, ArithmeticError) as error:
                name = record.layers[0]
                raise MisfitError(f"what {name} did isn't what is described: {first_line(error)}") from error
        return outputs, stats

    def profile(self, inputs: Sequence[Any], convert: Callable[[Any], Any] = to_torch) -> dict[str, float]:
        """Seconds spent for each layer in one call, see ``run``.

        Layers that one kernel computes get equal parts of its time. Kernels of no layer go under their own name.
        """
        seconds: dict[str, float] = defaultdict(float)
        for (layer, _), spent in self.profile_kernels(inputs, convert).items():
            seconds[layer] += spent
        return dict(seconds)

    def profile_kernels(
        self, inputs: Sequence[Any], convert: Callable[[Any], Any] = to_torch
    ) -> dict[tuple[str, str], float]:
        """The same by layer and kernel's symbol, in the order of the first calls."""
        seconds: dict[tuple[str, str], float] = defaultdict(float)
        start = 0.0

        def time_it(layer: str, symbol: str, before: bool, arguments: Sequence[Any]) -> None:
            nonlocal start
            finish(self.device)
            if before:
                start = time.perf_counter()
            else:
                spent, layers = time.perf_counter() - start, layers_of(layer)
                for each in layers:
                    seconds[each, symbol] += spent / len(layers)

        with self.watched(time_it):
            self.run(inputs, convert)
        return dict(seconds)

    @contextlib.contextmanager
    def watched(self, see: Callable[[str, str, bool, Sequence[Any]], None]) -> Iterator[None]:
        """Let ``see(layer, symbol, before, arguments)`` look at every kernel before and after it runs.

        The layer of a kernel that belongs to none is its own symbol. The arguments are TVM tensors, of which a kernel
        writes the last ones; their memory is used again by later kernels.

        Raises:
            TargetError: this machine can't run the code.
        """
        layers: dict[str, list[str]] = defaultdict(list)
        for symbol, layer in self.kernels:
            layers[symbol].append(layer)
        seen: dict[str, int] = defaultdict(int)

        def watch(function: Any, symbol: str, before: bool, result: Any, *arguments: Any) -> int:
            if symbol.startswith("vm.builtin"):
                return 0
            name = layers[symbol][seen[symbol] % len(layers[symbol])] if symbol in layers else symbol
            seen[symbol] += not before
            see(name, symbol, before, arguments)
            return 0

        if self._machine is None:
            self._refuse()
        with self._turn.lock:
            self._machine.set_instrument(watch)
            try:
                # What is raised in a function that TVM calls becomes TVM's.
                with deferred_interrupts():
                    yield
            finally:
                self._machine.set_instrument(None)

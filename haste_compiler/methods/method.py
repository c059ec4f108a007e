"""What a method must say of itself, so that nothing else has to know it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from haste_compiler.codegen.program import Record
from haste_compiler.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, fx

    from haste_compiler.codegen.job import Job, Trial
    from haste_compiler.codegen.machine import Machine
    from haste_compiler.codegen.tables import Rules
    from haste_compiler.graph.geometry import ConvGeometry
    from haste_compiler.methods.config import MethodConfig
    from haste_compiler.methods.merged_channels import MergedChannels
    from haste_compiler.methods.observed import Observed
    from haste_compiler.methods.prediction import Prediction
    from haste_compiler.methods.replayed import OwnedLayer
    from haste_compiler.methods.statistics import LayerStatistics
    from haste_compiler.methods.traced import Traced
    from haste_compiler.methods.work_map import WorkMap


_FLOAT32_DIGITS = 1e-6
"""What a number in a compiled network may differ by from the one that was asked for."""


@dataclass(frozen=True)
class Parameter:
    """A number that the compiled network reads anew at every call.

    Attributes:
        name: what it is steered by, ``compiled.<name>``.
        read: the number that a user's value means; raises ``ConfigError`` where it is out of range.
        written: the value as a user writes it.
        offered: values that are worth a look, ascending; None, where it is one, comes last.
    """

    name: str
    read: Callable[[Any], float]
    written: Callable[[float], Any]
    offered: tuple[Any, ...] = ()

    def check(self, value: float) -> None:
        """Check a value as a compiled network holds it.

        Raises:
            ConfigError: it is out of range.
        """
        if not math.isclose(self.read(self.written(value)), value, rel_tol=_FLOAT32_DIGITS):
            raise ConfigError(f"{self.name} can't be {value}")


@dataclass(frozen=True)
class Site:
    """Layers that a method would treat as one.

    Attributes:
        method: the method's name.
        nodes: the layers' nodes, in order.
        forced: those of them that the method takes whatever is predicted.
        config: the first one's configuration, which is everybody's where it matters.
    """

    method: str
    nodes: tuple[fx.Node, ...]
    forced: tuple[fx.Node, ...]
    config: Any


@dataclass(frozen=True)
class Verdict:
    """What a method says of one convolution or linear layer, or of attention.

    Attributes:
        eligible: whether its configuration lets it take the layer.
        reason: why, or why not.
        geometry: the convolution's, as the method would cut it; a linear layer is a 1×1 one of a row of pixels. None
            for attention.
        setting: of a layer that is the method's, how it computes it.
    """

    eligible: bool
    reason: str
    geometry: ConvGeometry | None
    setting: Any = None


class Pricing(Protocol):
    """What a method is given to predict times with."""

    @property
    def kind(self) -> str:
        """The name of the machine's folder."""

    @property
    def machine(self) -> Machine:
        """What the code is for."""

    @property
    def model(self) -> Any:
        """The machine's cost model: ``dense(geometry, batch, winograd)`` and, by kernel, what was measured."""

    @property
    def guess(self) -> Any:
        """A cost model that comes without waiting, where the machine's would have to be measured first; else None."""

    def natural(self, gm: fx.GraphModule, nodes: Sequence[fx.Node], seed: int) -> list[Tensor]:
        """The values of some nodes on made-up images like photographs."""

    def traced(self, gm: fx.GraphModule, nodes: Sequence[fx.Node], seed: int) -> Traced:
        """A run on such images that tells what changes of some nodes' values change the outputs by."""


@dataclass(frozen=True)
class Tunable:
    """Layers of which something that the configuration leaves open can be measured.

    Attributes:
        method: the method's name.
        layers: qualified names.
        settings: fields of the layers' override, each with what makes the kernels to be timed; the default first.
    """

    method: str
    layers: tuple[str, ...]
    settings: Sequence[tuple[Mapping[str, Any], Callable[[], Job]]]


class Method(ABC):
    """A way to remove redundancy: a rewrite of the graph, with everything that belongs to it.

    Attributes:
        NAME: the name of its folder, and in graphs, files and reports.
        TITLE: the same as a person writes it.
        CONFIG: its configuration's class.
        PARAMETERS: what can be steered, in the order in which records and kernels hold the values.
        PRECISION: the precision of products, as ``compile`` takes it, that its configuration stands for; "": none.
        MOST_TIME: share of the plain time that a layer may be predicted to take under it.
        OTHER_SETTINGS: whether a search may be given others than ``settings``.
        RESHAPES: whether its rewrite changes shapes of other methods' layers: it then comes before these choose.
        NEARER: what brings its layers' outputs nearer to the plain ones, in words and in the plural; "": nothing does.
    """

    NAME: ClassVar[str]
    TITLE: ClassVar[str]
    CONFIG: ClassVar[type[MethodConfig]]
    PARAMETERS: ClassVar[tuple[Parameter, ...]] = ()
    PRECISION: ClassVar[str] = ""
    MOST_TIME: ClassVar[float] = 0.75
    OTHER_SETTINGS: ClassVar[bool] = False
    NEARER: ClassVar[str] = ""
    RESHAPES: ClassVar[bool] = False

    # Before compiling

    def default(self) -> MethodConfig | None:
        """The configuration under which it takes part where none is given; None: it doesn't."""
        return None

    def configured(self, config: Any, machine: Machine) -> Any:
        """A configuration with the machine's values for what it leaves open."""
        return config

    # The graph

    @abstractmethod
    def sites(self, gm: fx.GraphModule, config: Any) -> list[Site]:
        """What it would take of a graph: nodes that a configuration lets it have and that nobody else owns."""

    @abstractmethod
    def judge(self, node: fx.Node, config: Any) -> Verdict | None:
        """What it says of a convolution or linear layer, plain or its own; None: nothing, it never takes its kind."""

    def check_layers(self, gm: fx.GraphModule, config: Any) -> None:  # noqa: B027  (most check nothing)
        """Check that a configuration's overrides each match a layer that it could take.

        Raises:
            ConfigError: one doesn't.
        """

    def price(self, gm: fx.GraphModule, sites: Sequence[Site], pricing: Pricing) -> list[list[Prediction]]:
        """Predict the time of every layer of some sites; without predictions every site is taken."""
        return []

    @abstractmethod
    def rewrite(self, gm: fx.GraphModule, config: Any) -> fx.GraphModule:
        """Rewrite the sites that were chosen. A node that takes a layer's place has ``meta["method"]``, the name."""

    def convolutions(self) -> Mapping[Any, int]:
        """Its operators that stand for a plain convolution or linear layer, and where among their arguments the filters
        are: of rank 4 and 2."""
        return {}

    def counted(self) -> Mapping[Any, Callable[..., int]]:
        """Its operators that multiply and stand for no plain layer, each with what counts its multiply-adds: called as
        the operator, with shapes in the place of tensors."""
        return {}

    def differentiable(self) -> Mapping[Any, Callable[..., Any]]:
        """Of a method that reshapes, its operators as functions that autograd goes through."""
        return {}

    def arithmetic(self, setting: Any) -> str:
        """The format that a layer of it multiplies in, a key of ``energy``'s table; ``setting``: the verdict's."""
        return "float32"

    # Machine code

    @abstractmethod
    def rules(self, machine: Machine) -> Rules:
        """The rules that lower its operators to kernels for a machine; none where it has no kernels for it."""

    def requirement(self, machine: Machine) -> str:
        """What a machine would have to be for the method to have kernels for it, in words; empty where it is that."""
        return ""

    def phases(self) -> Mapping[str, tuple[str, ...]]:
        """The phases of its kernels for CPUs, of which the cost model has a coefficient each; by the kernels' names."""
        return {}

    def calibration(self, machine: Machine) -> Iterable[Trial]:
        """What of its kernels for CPUs is timed to find these coefficients."""
        return ()

    def tunables(self, gm: fx.GraphModule, config: Any, machine: Any, pricing: Pricing) -> Sequence[Tunable]:
        """What can be measured on a CPU to set what a configuration leaves open, of the sites that were chosen."""
        return ()

    # At run time; without PyTorch

    @abstractmethod
    def read(
        self, record: Record, values: Sequence[float], statistics: Sequence[NDArray[Any]]
    ) -> Mapping[str, LayerStatistics]:
        """What the layers of a record did in one call, by name, from the tensors that their kernels wrote."""

    def check(self, record: Record) -> None:  # noqa: B027  (most have no data)
        """Check the data and the number of statistics of a record that was read from a file.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """

    def upgraded(self, stored: Mapping[str, Any]) -> Record:
        """A record from what files of older formats hold.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        raise ValueError(f"files of this format hold nothing of {self.NAME}")

    def work_maps(
        self, stats: Mapping[str, LayerStatistics], shape: Sequence[int], image: int
    ) -> Mapping[str, WorkMap]:
        """Where in an image its layers' work was done, by name, as far as the statistics of a call tell.

        Args:
            stats: of all its layers in that call, by name, in order.
            shape: of the images, (N, C, H, W).
            image: of the batch.
        """
        return {}

    def unread(self, record: Record) -> Mapping[str, str]:
        """The parameters that a record's code doesn't read, and why."""
        return {}

    # Search and checks

    def neutral(self) -> tuple[float, ...] | None:
        """Values of the parameters under which nothing changes but the order of sums; None: there are none."""
        return None

    def ladder(self) -> Sequence[tuple[float, ...]]:
        """Values of the parameters that a search tries, roughly by rising damage; none: it can't be searched."""
        return ()

    def searched(self, config: Any) -> Any:
        """A configuration as a search starts from it: without the overrides' fields that the search decides.

        What a search finds are overrides of this one, of every layer that ``explored`` lets it take.
        """
        return config

    def explored(self, config: Any, setting: Any = None) -> Any:
        """A configuration under which a search measures every layer: all that can be taken are, nothing changes.

        Args:
            config: what ``searched`` returned.
            setting: what is compiled in and searched too, one of ``settings``; None: the configuration's.
        """
        return config

    def settings(self, timed: bool) -> Sequence[Any]:
        """What is compiled in and searched too, each for a compilation; ``timed``: where time is to be saved."""
        return (None,)

    def alike(self, geometry: ConvGeometry, setting: Any) -> Hashable:
        """What one of ``settings`` comes to for a convolution: those of which this is the same are measured once."""
        return setting

    def override(self, values: Sequence[float], setting: Any) -> dict[str, Any]:
        """The fields of a layer's override that stand for these values and setting."""
        return {}

    def deferred(self) -> tuple[Any, ...]:
        """Those of its operators whose work is done where a layer needs it, as a part of the layer."""
        return ()

    def reference_work_map(self, observed: Observed) -> WorkMap | None:
        """The same by its definition in plain PyTorch, where a layer's statistics don't tell it; None: it has none."""
        return None

    def merged_channels(self, observed: Observed) -> MergedChannels | None:
        """The channels that a layer took as one, in the patch where most were, by the same definition; None: there are
        none."""
        return None

    def varied(self, config: Any) -> Mapping[str, tuple[Any, tuple[Any, ...]]]:
        """Fields of a configuration that steering can't change and that one may want to compare, by name: what each is,
        and values to compare, each of which is a compilation of its own."""
        return {}

    def replayed(
        self, node: fx.Node, values: Mapping[fx.Node, Any], steered: Sequence[float] | None
    ) -> OwnedLayer | None:
        """What a layer of it computes in eager PyTorch; None: the node is run as it is, and not checked.

        Args:
            node: has its name as ``meta["method"]``.
            values: of all nodes that this one and the deferred calls before it read, but for these calls.
            steered: values of the parameters in the place of the graph's; None: the graph's.
        """
        return None

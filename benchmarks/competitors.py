"""What is compared: this compiler's configurations, and what else a user could pick, in float32 and in int8."""

from collections.abc import Callable, Sequence

from benchmarks import int8_runners, runners
from benchmarks.int8_runners import Calls
from benchmarks.runners import Make
from haste_compiler import HasteConfig

PEERS: dict[str, Make] = {
    "eager": runners.eager,
    "channels_last": runners.channels_last,
    "inductor": runners.inductor,
    "onnxruntime": runners.onnx_runtime,
    "openvino": runners.openvino,
}
"""Everything that a user could pick instead in float32, by name."""

INT8_PEERS: dict[str, Callable[[Calls], Make]] = {
    "inductor_int8": int8_runners.inductor,
    "onnxruntime_int8": int8_runners.onnx_runtime,
    "openvino_int8": int8_runners.openvino,
}
"""Everything that a user could pick instead in int8, by name: what prepares it once it is given calibrating calls."""

OURS: dict[str, Make | None] = {
    "dense": runners.ours(config=HasteConfig(enabled=False)),
    "int8": runners.ours(precision="int8"),
    "haste": runners.ours(config=HasteConfig()),
    "searched": None,
    "paper": runners.ours(config=HasteConfig.paper()),
    "haste_everywhere": runners.ours(config=HasteConfig(cost_model=False, patch_size=28)),
}
"""This compiler's configurations, by name; None: what a search found for the network."""

INT8 = (*INT8_PEERS, "int8")
"""Runners that compute in int8."""

EXACT = (*PEERS, "dense")
"""Runners that must compute what eager PyTorch does; the others approximate it."""

TITLES: dict[str, str] = {
    "eager": "PyTorch, NCHW",
    "channels_last": "PyTorch, channels_last",
    "inductor": "torch.compile, freezing",
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO, f32",
    "inductor_int8": "torch.compile, int8",
    "onnxruntime_int8": "ONNX Runtime, int8",
    "openvino_int8": "OpenVINO, int8",
    "dense": "haste-compiler, dense",
    "int8": "haste-compiler, int8",
    "haste": "haste-compiler, HASTE",
    "searched": "haste-compiler, HASTE, searched",
    "paper": "haste-compiler, published rule",
    "haste_everywhere": "haste-compiler, HASTE everywhere, patch 28",
}


def makers(names: Sequence[str], calibrating: Calls, searched: HasteConfig | None = None) -> dict[str, Make]:
    """What prepares each of some runners.

    Args:
        names: of runners; "searched" is left out where nothing was searched.
        calibrating: returns the calls that int8 peers are calibrated on.
        searched: what was found for the network.
    """
    found = None if searched is None else runners.ours(config=searched)
    int8_peers = {name: peer(calibrating) for name, peer in INT8_PEERS.items()}
    known = {**PEERS, **int8_peers, **OURS, "searched": found}
    return {name: make for name in names if (make := known[name]) is not None}

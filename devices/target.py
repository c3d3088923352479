"""Device, Runtime and Target: what a latency belongs to.

A latency without its target is meaningless. A target is a device together with the runtime that runs models
on it, and its key reads like a path: ``rpi5-8gb/onnxruntime-1.31/cpu/t4`` (the idea of naming hardware,
engine, version and precision in one key is NNLQP's, ICPP 2022).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from devices.vocabulary import Value

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")]

# What a runtime does with a graph before it runs it. `default` is what its users get: ONNX Runtime optimises
# all it can, PyTorch runs eagerly. The next three are ONNX Runtime's levels; with `cuda-graph` PyTorch
# records what it launches once, and the GPU replays it.
Optimization = Literal["default", "none", "basic", "extended", "cuda-graph"]
# What a runtime converts a float32 model to; `native` is nothing: as the graph says.
Precision = Literal["native", "fp16", "bf16"]

# Instruction sets that change which kernels a runtime picks; the rest of the processor's flag list is noise.
RELEVANT_ISA_FLAGS = (
    "sse4_2", "avx", "fma", "f16c", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16",
    "avx512_fp16", "amx_int8", "amx_bf16", "neon", "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve",
    "sve2",
)  # fmt: skip


class Accelerator(Value):
    """One GPU or NPU of a device."""

    name: str
    memory_bytes: int = Field(ge=0)
    driver: str


class Hardware(Value):
    """Facts about one physical machine that bear on latency."""

    cpu_model: str
    architecture: str  # as `uname -m` says: x86_64, aarch64
    physical_cores: int = Field(ge=1)
    logical_cores: int = Field(ge=1)
    memory_bytes: int = Field(ge=1)
    isa_flags: tuple[str, ...] = ()  # the subset of RELEVANT_ISA_FLAGS that the processor has
    accelerators: tuple[Accelerator, ...] = ()
    operating_system: str
    is_virtual_machine: bool = False


class Device(Value):
    """One physical machine. `fingerprint` is its stable identity; `key` its readable name."""

    key: Slug
    fingerprint: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32,64}$")]
    hardware: Hardware


class Runtime(Value):
    """How models run on a device."""

    engine: Slug  # onnxruntime, openvino, mnn, ncnn, torch, fake
    version: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    provider: Slug  # cpu, cuda, tensorrt
    threads: int = Field(ge=1, le=1024)  # intra-operator threads on the CPU side
    precision: Slug = "native"  # native: as the graph says; fp16, bf16, int8: the runtime converts
    optimization: Slug = "default"  # of the graph before it runs: an `Optimization`, or a newer peer's
    power_mode: Slug | None = None

    @property
    def key(self) -> str:
        """The runtime's part of a target key; versions are cut to major.minor, which decides on kernels."""
        parts = [f"{self.engine}-{_major_minor(self.version)}", self.provider, f"t{self.threads}"]
        if self.precision != "native":
            parts.append(self.precision)
        if self.optimization != "default":
            parts.append(f"opt-{self.optimization}")
        if self.power_mode is not None:
            parts.append(self.power_mode)
        return "/".join(parts)


class Target(Value):
    """A device with a runtime."""

    device_key: Slug
    runtime: Runtime

    @property
    def key(self) -> str:
        """Readable and unique within a fleet, as long as device keys are."""
        return f"{self.device_key}/{self.runtime.key}"


def _major_minor(version: str) -> str:
    match = re.match(r"\d+(\.\d+)?", version)
    return match.group(0) if match else re.sub(r"[^a-z0-9._-]", "-", version.lower())

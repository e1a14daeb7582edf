"""The arithmetic of networks: which precisions a device has, and how a network is made to use one.

STFT, masks and inverse STFT are float32 always; only what an architecture passes through
`Arithmetic.network` is not. Half precisions hold weights in half the bytes, cast once. What they cost in
quality is measured by `fidelity`, and how fast they are by `tuning`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn

from splitfire_batch.config import Precision
from splitfire_batch.errors import ConfigError

_MAX_SHAPES = 256
_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def precisions(device: torch.device) -> tuple[Precision, ...]:
    """What a device computes in hardware, fp32 first.

    On a CPU tf32 would be fp32 bit for bit, fp16 is slower than fp32 (measured with AVX512-FP16), and bf16
    without units for it takes ten times as long: none of them is offered. Nor is bf16 without AMX: what
    AVX512-BF16 computes (on a Zen 4) misses the floor on hard music, by 0.4 dB.
    """
    if device.type == "cpu":
        return ("fp32", "bf16") if torch.cpu._is_amx_tile_supported() else ("fp32",)
    major, _ = torch.cuda.get_device_capability(device)
    return get_args(Precision) if major >= 8 else ("fp32", "fp16") if major >= 7 else ("fp32",)


class Arithmetic:
    """How the networks of one model compute on one device.

    Args:
        precision: of the networks.
        device: where they are.
        is_compiled: let `torch.compile` fuse their operations.
        is_channels_last: keep channels innermost, as convolutions on CPUs and tensor cores want them.

    Raises:
        ConfigError: the device does not have the precision.
    """

    def __init__(
        self,
        precision: Precision,
        device: torch.device,
        is_compiled: bool = False,
        is_channels_last: bool = True,
    ) -> None:
        if precision not in (known := precisions(device)):
            raise ConfigError(
                f"precision: found {precision!r}, and this {device.type} device can do {', '.join(known)}; "
                "choose one of them, or a device that has it"
            )
        if is_compiled:
            _prepare_compiler(precision, device)
        self.precision, self.device = precision, device
        self.is_plain = precision == "fp32" and not is_compiled
        """float32 and eager: an architecture may then have faster ways of its own."""
        self._is_compiled = is_compiled
        self._dtype = _DTYPES.get(precision, torch.float32)
        self._layout = torch.channels_last if is_channels_last else torch.contiguous_format

    def network(self, net: nn.Module, is_channels_last: bool = True) -> nn.Module:
        """`net` on the device, for `inputs`; its outputs are float32, contiguous, and nobody else's.

        Args:
            net: takes tensors, and returns one or a tuple of them.
            is_channels_last: False for one that channels innermost would only slow down.
        """
        net = net.to(self.device, self._dtype)
        if is_channels_last:
            net = net.to(memory_format=self._layout)  # type: ignore[call-overload]
        if self._is_compiled:
            # Shapes are few and fixed; on CUDA each becomes one graph, which writes over its last outputs.
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            net.compile(dynamic=False, fullgraph=True, mode=mode)
        return _Float32(net, self._is_compiled)

    def inputs(self, x: Tensor, is_channels_last: bool = True) -> Tensor:
        """`x`, float32, as networks want it; (B, C, H, W) where channels may be innermost."""
        return x.to(self._dtype, memory_format=self._layout) if is_channels_last else x.to(self._dtype)

    @contextmanager
    def exactly(self) -> Iterator[None]:
        """Within it CUDA's convolutions and products use one fixed algorithm, and no more or less than asked.

        By default cuDNN computes float32 convolutions in TF32. A CPU does what it is told anyway.
        """
        if self.device.type != "cuda":  # these flags are the whole process's
            yield
            return
        is_tf32 = self.precision == "tf32"
        with torch.backends.cudnn.flags(
            enabled=True,
            benchmark=False,
            deterministic=True,
            allow_tf32=is_tf32,
            fp32_precision="tf32" if is_tf32 else "ieee",
        ):
            yield


class _Float32(nn.Module):
    """A network whose outputs are float32 and contiguous, and copied if `is_copied`."""

    def __init__(self, net: nn.Module, is_copied: bool) -> None:
        super().__init__()
        self._net, self._is_copied = net, is_copied

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        found: Tensor | tuple[Tensor, ...] = self._net(*inputs)
        return self._own(found) if isinstance(found, Tensor) else tuple(map(self._own, found))

    def _own(self, y: Tensor) -> Tensor:
        return y.to(torch.float32, copy=self._is_copied, memory_format=torch.contiguous_format)


def _prepare_compiler(precision: Precision, device: torch.device) -> None:
    """Refuse what cannot be compiled, or would change more than rounding; make room for every shape."""
    if precision in _DTYPES:
        raise ConfigError(
            f"compile: with {precision} fused operations skip roundings, which changes the stems audibly in "
            "numbers; choose fp32 or tf32, or leave compile off"
        )
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise ConfigError(
                "compile: on CUDA torch.compile needs Triton; install triton or leave compile off"
            )
    else:
        from torch._inductor.cpp_builder import get_cpp_compiler
        from torch._inductor.exc import InvalidCxxCompiler

        try:
            get_cpp_compiler()
        except InvalidCxxCompiler as error:
            raise ConfigError(
                "compile: on a CPU torch.compile needs a C++ compiler, and there is neither g++ nor $CXX; "
                "install g++ or leave compile off"
            ) from error
    # One for each length of segments, size of batch and network; past the limit it would give up.
    torch._dynamo.config.recompile_limit = _MAX_SHAPES

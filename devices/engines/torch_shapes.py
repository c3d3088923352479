"""ONNX operators that move elements about or make new tensors, as PyTorch functions. Sizes are fixed when a
model is loaded, so nothing here computes shapes in a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from devices.engines.torch_node import Builder, Function, Node

PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
SIZES_AS_INPUT = 11  # opset: resizing then has a region of interest before scales and sizes


def _reshape(node: Node) -> Function:
    wanted = node.integers("shape") or node.sizes(1) or ()
    own = node.shape(0)
    allow_zero = node.integer("allowzero", 0)
    shape = [own[axis] if size == 0 and not allow_zero else size for axis, size in enumerate(wanted)]
    return lambda x, *_: x.reshape(shape)


def _flatten(node: Node) -> Function:
    shape, axis = node.shape(0), node.integer("axis", 1)
    axis += len(shape) if axis < 0 else 0
    rows = int(torch.Size(shape[:axis]).numel())
    columns = int(torch.Size(shape[axis:]).numel())
    return lambda x: x.reshape(rows, columns)


def _squeeze(node: Node) -> Function:
    axes = node.axes(1)
    if axes is None:
        return lambda x, *_: x.squeeze()
    return lambda x, *_: x.squeeze(axes)


def _unsqueeze(node: Node) -> Function:
    axes = node.axes(1) or ()
    rank = len(node.shape(0)) + len(axes)
    shape = list(node.shape(0))
    for axis in sorted(axis % rank for axis in axes):
        shape.insert(axis, 1)
    return lambda x, *_: x.reshape(shape)


def _transpose(node: Node) -> Function:
    order = node.integers("perm") or tuple(reversed(range(len(node.shape(0)))))
    return lambda x: x.permute(order)


def _concat(node: Node) -> Function:
    axis = node.integer("axis", 1)
    return lambda *values: torch.cat(values, axis)


def _split(node: Node) -> Function:
    axis = node.integer("axis", 0)
    sizes = node.integers("split") or node.sizes(1)
    if sizes is None:
        size = node.shape(0)[axis]
        chunk = -(-size // node.output_count)
        sizes = tuple(min(chunk, size - start) for start in range(0, size, chunk))
    return lambda x, *_: torch.split(x, list(sizes), axis)


def _slice(node: Node) -> Function:
    rank = len(node.shape(0))
    starts = node.integers("starts") or node.sizes(1) or ()
    ends = node.integers("ends") or node.sizes(2) or ()
    is_old = "starts" in node.attributes
    axes = node.integers("axes") if is_old else node.sizes(3)
    steps = None if is_old else node.sizes(4)
    index: list[slice] = [slice(None)] * rank
    flipped: list[int] = []
    for position, axis in enumerate(axes or range(len(starts))):
        axis %= rank
        step = steps[position] if steps else 1
        chosen = range(node.shape(0)[axis])[slice(starts[position], ends[position], step)]
        if step < 0:
            flipped.append(axis)
            chosen = chosen[::-1]
        index[axis] = slice(chosen.start, max(chosen.stop, 0), chosen.step) if chosen else slice(0, 0)
    where = tuple(index)
    if flipped:
        return lambda x, *_: x[where].flip(flipped)
    return lambda x, *_: x[where]


def _gather(node: Node) -> Function:
    rank = len(node.shape(0))
    axis = node.integer("axis", 0) % rank
    if not node.is_constant[1]:
        if axis == 0 and rank == 2:
            return lambda x, index: functional.embedding(index.long(), x)
        shape = (*node.shape(0)[:axis], *node.shape(1), *node.shape(0)[axis + 1 :])
        return lambda x, index: torch.index_select(x, axis, index.reshape(-1)).reshape(shape)
    chosen = node.example(1).long() % node.shape(0)[axis]  # an index below 0 counts from the end
    if chosen.dim() == 0:
        return partial(_select, axis=axis, position=int(chosen))
    shape = (*node.shape(0)[:axis], *chosen.shape, *node.shape(0)[axis + 1 :])
    flat = chosen.reshape(-1)
    return lambda x, _: torch.index_select(x, axis, flat).reshape(shape)


def _select(x: Tensor, _: Tensor, *, axis: int, position: int) -> Tensor:
    return x.select(axis, position)


def _gather_elements(node: Node) -> Function:
    axis = node.integer("axis", 0)
    return lambda x, index: torch.gather(x, axis, index.long())


def _gather_nd(node: Node) -> Function:
    if node.integer("batch_dims", 0):
        raise node.refusal("batch_dims is not 0")
    return lambda x, index: x[index.long().unbind(-1)]


def _scatter_elements(node: Node) -> Function:
    _refuse_reduction(node)
    axis = node.integer("axis", 0)
    return lambda x, index, updates: torch.scatter(x, axis, index.long(), updates)


def _scatter_nd(node: Node) -> Function:
    _refuse_reduction(node)
    return lambda x, index, updates: x.index_put(index.long().unbind(-1), updates)


def _refuse_reduction(node: Node) -> None:
    if node.text("reduction", "none") != "none":
        raise node.refusal("values that meet are reduced")


def _expand(node: Node) -> Function:
    shape = np.broadcast_shapes(node.shape(0), node.sizes(1) or ())
    return lambda x, _: x.expand(shape)


def _tile(node: Node) -> Function:
    repeats = node.sizes(1) or ()
    return lambda x, _: x.repeat(repeats)


def _pad(node: Node) -> Function:
    mode = PAD_MODES.get(node.text("mode", "constant"))
    pads = node.integers("pads") or node.sizes(1)
    if mode is None or pads is None:
        raise node.refusal("its mode or its sizes are unknown")
    rank = len(node.shape(0))
    axes = [axis % rank for axis in node.sizes(3) or range(rank)]
    value = node.real("value", 0.0) if "value" in node.attributes else node.constant(2)
    amount = 0.0 if value is None else float(value)
    if node.example(0).dtype not in (torch.float16, torch.float32, torch.float64, torch.bfloat16):
        amount = int(amount)
    before = {axis: pads[position] for position, axis in enumerate(axes)}
    after = {axis: pads[position + len(axes)] for position, axis in enumerate(axes)}
    sizes = [side.get(axis, 0) for axis in reversed(range(rank)) for side in (before, after)]
    if mode == "constant":
        return lambda x, *_: functional.pad(x, sizes, value=amount)
    while sizes and not any(sizes[-2:]):
        sizes = sizes[:-2]
    return lambda x, *_: functional.pad(x, sizes, mode)


def _depth_to_space(node: Node) -> Function:
    block = node.integer("blocksize")
    if node.text("mode", "DCR") == "CRD":
        return lambda x: functional.pixel_shuffle(x, block)
    n, c, h, w = node.shape(0)
    inner = c // block**2

    def rearrange(x: Tensor) -> Tensor:
        x = x.reshape(n, block, block, inner, h, w).permute(0, 3, 4, 1, 5, 2)  # (n, inner, h, b, w, b)
        return x.reshape(n, inner, h * block, w * block)

    return rearrange


def _space_to_depth(node: Node) -> Function:
    block = node.integer("blocksize")
    n, c, h, w = node.shape(0)

    def rearrange(x: Tensor) -> Tensor:
        x = x.reshape(n, c, h // block, block, w // block, block)
        x = x.permute(0, 3, 5, 1, 2, 4)  # (n, block, block, c, h / block, w / block)
        return x.reshape(n, c * block**2, h // block, w // block)

    return rearrange


def _resize(node: Node) -> Function:
    shape = node.shape(0)
    sizes = _resized(node, shape)
    if sizes[:2] != shape[:2] or len(shape) not in (3, 4, 5):
        raise node.refusal(f"it changes shape {list(shape)} to {list(sizes)}")
    mode, spatial = node.text("mode", "nearest"), sizes[2:]
    where = node.text("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        return lambda x, *_: functional.interpolate(x, spatial, mode="nearest")
    names = {"linear": {3: "linear", 4: "bilinear", 5: "trilinear"}, "cubic": {4: "bicubic"}}
    name = names.get(mode, {}).get(len(shape))
    if name is None or (where not in ("half_pixel", "pytorch_half_pixel", "align_corners")):
        raise node.refusal(f"mode {mode!r} with {where!r} on {len(shape)} axes")
    is_aligned = where == "align_corners"
    return lambda x, *_: functional.interpolate(x, spatial, mode=name, align_corners=is_aligned)


def _resized(node: Node, shape: Sequence[int]) -> tuple[int, ...]:
    at = 2 if node.kind == "Resize" and node.opset >= SIZES_AS_INPUT else 1
    if sizes := node.sizes(3):
        scales: Sequence[float] = [size / own for size, own in zip(sizes, shape[-len(sizes) :], strict=True)]
    else:
        stated = node.attributes.get("scales")
        value = node.constant(at)
        scales = value.tolist() if value is not None else list(stated) if isinstance(stated, list) else []
    chosen = node.integers("axes")
    if chosen is not None:
        by_axis = dict(zip((axis % len(shape) for axis in chosen), scales, strict=True))
        scales = [by_axis.get(axis, 1.0) for axis in range(len(shape))]
    if len(scales) != len(shape):
        raise node.refusal("neither scales nor sizes are given for every axis")
    return tuple(int(own * scale + 1e-4) for own, scale in zip(shape, scales, strict=True))


def _top_k(node: Node) -> Function:
    count = (node.sizes(1) or (node.integer("k", 0),))[0]
    axis, largest = node.integer("axis", -1), bool(node.integer("largest", 1))
    return lambda x, *_: tuple(torch.topk(x, count, axis, largest))


def _one_hot(node: Node) -> Function:
    depth = (node.sizes(1) or (0,))[0]
    axis = node.integer("axis", -1)
    off, on = (value.item() for value in torch.as_tensor(node.constant(2)))
    dtype = node.example(2).dtype

    def build(index: Tensor, *_: Tensor) -> Tensor:
        hot: Tensor = (
            functional.one_hot(index.long() % depth, depth).to(dtype) * (on - off) + off
        )  # (..., depth)
        return hot if axis == -1 else hot.movedim(-1, axis)

    return build


def _cumulative_sum(node: Node) -> Function:
    axis = (node.sizes(1) or (0,))[0]
    if node.integer("exclusive", 0) or node.integer("reverse", 0):
        raise node.refusal("it is exclusive or runs backwards")
    return lambda x, _: torch.cumsum(x, axis)


def _triangle(node: Node) -> Function:
    diagonal = (node.sizes(1) or (0,))[0]
    function = torch.triu if node.integer("upper", 1) else torch.tril
    return lambda x, *_: function(x, diagonal)


def _constant_of_shape(node: Node) -> Function:
    shape, value = node.sizes(0) or (), node.attributes.get("value")
    zero = torch.zeros((), device=node.example(0).device)
    filled = value.reshape(()) if isinstance(value, Tensor) else zero
    return lambda _: filled.expand(shape).clone()


def _range(node: Node) -> Function:
    start, stop, step = (torch.as_tensor(node.constant(index)).item() for index in range(3))
    dtype, device = node.example(0).dtype, node.example(0).device
    return lambda *_: torch.arange(start, stop, step, dtype=dtype, device=device)


OPERATORS: Mapping[str, Builder] = {
    "Reshape": _reshape, "Flatten": _flatten, "Squeeze": _squeeze, "Unsqueeze": _unsqueeze,
    "Transpose": _transpose, "Concat": _concat, "Split": _split, "Slice": _slice, "Gather": _gather,
    "GatherElements": _gather_elements, "GatherND": _gather_nd, "ScatterElements": _scatter_elements,
    "ScatterND": _scatter_nd, "Expand": _expand, "Tile": _tile, "Pad": _pad, "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth, "Resize": _resize, "Upsample": _resize, "TopK": _top_k,
    "OneHot": _one_hot, "CumSum": _cumulative_sum, "Trilu": _triangle,
    "ConstantOfShape": _constant_of_shape, "Range": _range,
}  # fmt: skip

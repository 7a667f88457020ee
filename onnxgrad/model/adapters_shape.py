"""Adapters of operators that move elements: reshaping, slicing, splitting, padding, resizing, gathering."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxgrad.model.lifting import Site, adapts


@adapts("Reshape", to=5)
def reshape_target(site: Site) -> None:
    """Turn the shape into an input."""
    site.take("consumed_inputs")
    shape = site.take("shape")
    if shape is not None:
        site.set_input(1, site.ints(shape))


@adapts("Squeeze", "Unsqueeze", to=13)
def squeezed_axes(site: Site) -> None:
    """Turn the axes into an input. An empty list meant all axes of size 1, as no input does."""
    axes = site.take("axes")
    if axes:
        site.set_input(1, site.ints(axes))


@adapts("Concat", to=4)
def concat_axis(site: Site) -> None:
    """Write out the old default of the axis."""
    site.put(axis=site.take("axis", 1))


@adapts("Split", to=2)
def split_lengths(site: Site) -> None:
    """Make lengths that come as an input integers; they had the element type of what is split."""
    site.put(axis=site.take("axis", 0))
    lengths = site.input(1)
    if lengths is not None:
        site.set_input(1, site.emit("Cast", lengths, to=int(ir.DataType.INT64)))


@adapts("Split", to=13)
def split_input(site: Site) -> None:
    """Turn the lengths into an input."""
    lengths = site.take("split")
    if lengths:
        site.set_input(1, site.ints(lengths))


@adapts("Split", to=18)
def split_count(site: Site) -> None:
    """Write out the number of parts where there are no lengths."""
    if site.input(1) is None:
        site.put(num_outputs=len(site.node.outputs))


@adapts("Slice", to=10)
def slice_bounds(site: Site) -> None:
    """Turn the bounds into inputs."""
    for index, name in enumerate(("starts", "ends", "axes"), start=1):
        bounds = site.take(name)
        if bounds is not None:
            site.set_input(index, site.ints(bounds))


@adapts("Pad", to=2)
def pad_name(site: Site) -> None:
    """Rename the attribute."""
    if "paddings" in site.node.attributes:
        site.put(pads=site.take("paddings"))


@adapts("Pad", to=11, typed=True)
def pad_inputs(site: Site) -> None:
    """Turn the widths and the value into inputs."""
    pads, value = site.take("pads"), site.take("value", 0.0)
    if pads is not None:
        site.set_input(1, site.ints(pads))
        if value != 0.0:
            site.set_input(2, site.scalar_like(value, 0))


@adapts("Tile", to=6)
def tile_repeats(site: Site) -> None:
    """Make copies along one axis a number of copies for each: ones, with that number put in at the axis."""
    if len(site.node.inputs) < 3:
        return
    x, tiles, axis = site.node.inputs
    one = ir.tensor(np.array([1], dtype=np.int64))
    ones = site.emit("ConstantOfShape", site.emit("Shape", site.emit("Shape", x)), value=one)
    # Both had the element type of what is tiled.
    at, number = (
        site.emit("Reshape", site.emit("Cast", v, to=int(ir.DataType.INT64)), site.ints([1])) for v in (axis, tiles)
    )
    site.become("Tile", x, site.emit("ScatterElements", ones, at, number))


@adapts("TopK", to=10)
def topk_count(site: Site) -> None:
    """Turn the number of elements into an input."""
    k = site.take("k")
    if k is not None:
        site.set_input(1, site.ints([k]))


@adapts("Scatter", to=11)
def scatter_elements(site: Site) -> None:
    """Rename the operator."""
    site.node.op_type = "ScatterElements"


@adapts("RoiAlign", to=16)
def roi_align_pixels(site: Site) -> None:
    """Write out that positions are not shifted to the centers of pixels, as they now are by default."""
    if "coordinate_transformation_mode" not in site.node.attributes:
        site.put(coordinate_transformation_mode="output_half_pixel")


@adapts("Upsample", to=7)
def upsample_scales(site: Site) -> None:
    """Turn the scales of an image's height and width into one scale for each axis."""
    height, width = site.take("height_scale"), site.take("width_scale")
    if height is not None and width is not None:
        site.put(scales=[1.0, 1.0, height, width])


@adapts("Upsample", to=9)
def upsample_input(site: Site) -> None:
    """Turn the scales into an input."""
    scales = site.take("scales")
    if scales is not None:
        site.set_input(1, site.constant(np.array(scales, dtype=np.float32)))


@adapts("Upsample", to=10)
def upsample_is_resize(site: Site) -> None:
    """Make it a Resize. Its scales are 1 at least, and then a position is rounded down to a pixel."""
    mode = _interpolation(site)
    nearest = {"nearest_mode": "floor"} if mode == "nearest" else {}
    x, scales = site.input(0), site.input(1)
    site.become("Resize", x, None, scales, mode=mode, coordinate_transformation_mode="asymmetric", **nearest)


@adapts("Resize", to=11)
def resize_positions(site: Site) -> None:
    """Write out how positions are computed: x / scale, rounded down to a pixel on enlarging, up on reducing.

    The rounding was not specified; this is what onnxruntime does. Where it is not known which it is, or it is both, one
    node resizes the axes that grow, and the next one those that shrink.
    """
    if len(site.node.inputs) > 2 or "coordinate_transformation_mode" in site.node.attributes:
        return  # is in the newer form already, in a file that claims an older version
    x, scales, mode = site.input(0), site.input(1), _interpolation(site)
    known = site.constant_input(1)
    asymmetric = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode != "nearest":
        site.become("Resize", x, None, scales, **asymmetric)
    elif known is not None and ((known >= 1).all() or (known <= 1).all()):
        rounding = "floor" if (known >= 1).all() else "ceil"
        site.become("Resize", x, None, scales, **asymmetric, nearest_mode=rounding)
    else:
        one = site.constant(np.array(1, dtype=np.float32))
        grow, shrink = site.emit("Max", scales, one), site.emit("Min", scales, one)
        grown = site.emit("Resize", x, None, grow, **asymmetric, nearest_mode="floor")
        site.become("Resize", grown, None, shrink, **asymmetric, nearest_mode="ceil")


@adapts("Resize", to=13)
def resize_left_out(site: Site) -> None:
    """Leave out what is not given; an empty tensor stood in its place."""
    for index in (1, 2):
        given = site.constant_input(index)
        if given is not None and given.size == 0:
            site.set_input(index, None)


def _interpolation(site: Site) -> str:
    mode = site.take("mode", "nearest")
    return "linear" if mode in ("bilinear", "trilinear") else str(mode)

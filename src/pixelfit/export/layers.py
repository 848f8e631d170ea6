"""A net's layers as the code that makes them."""

from __future__ import annotations

from torch import nn

from pixelfit.models.resnet import Block


def layers_of(module: nn.Module) -> list[str]:
    """A line of code a layer; a dropout of nothing is left out."""
    return [_code(layer) for layer in module.children() if not (isinstance(layer, nn.Dropout) and layer.p == 0)]


def _code(layer: nn.Module) -> str:
    match layer:
        case nn.Conv2d():
            stride = f"stride={layer.stride[0]}, " if layer.stride[0] != 1 else ""
            sizes = f"{layer.in_channels}, {layer.out_channels}, {layer.kernel_size[0]}"
            given = f"{sizes}, {stride}padding={layer.padding[0]}, bias=False"
        case nn.BatchNorm2d() | nn.BatchNorm1d():
            given = str(layer.num_features)
        case nn.ReLU():
            given = "inplace=True" if layer.inplace else ""
        case nn.MaxPool2d():
            given = str(layer.kernel_size)
        case nn.AdaptiveAvgPool2d():
            given = str(layer.output_size)
        case nn.Flatten():
            given = ""
        case nn.Dropout():
            given = str(layer.p)
        case nn.Linear():
            given = f"{layer.in_features}, {layer.out_features}" + (", bias=False" if layer.bias is None else "")
        case Block():
            return f"Block({layer.first.in_channels}, {layer.first.out_channels}, stride={layer.first.stride[0]})"
        case _:
            raise AssertionError(f"{type(layer).__name__} is a layer of no family that is written out")
    return f"nn.{type(layer).__name__}({given})"

"""Interpretation maps: of the last feature map (`features`), on the pixels (`pixels`), and every one by name (`explainers`)."""

from irob.maps.explainers import (
    EXPLAINERS,
    Explainer,
    ForwardFn,
    differentiable,
    explainer,
    frozen,
    on_logit_scale,
    on_pixels,
    read_off,
    shape_of_maps,
    training,
)
from irob.maps.features import READOUTS, cam, grad_cam, grad_cam_plus_plus, heatmap, layer_cam, scale_to_logits
from irob.maps.pixels import (
    Integrated,
    expected_gradients,
    gauss_legendre,
    gradient_x_input,
    integrated_gradients,
    saliency,
    smooth_grad,
)

__all__ = [
    "EXPLAINERS",
    "READOUTS",
    "Explainer",
    "ForwardFn",
    "Integrated",
    "cam",
    "differentiable",
    "expected_gradients",
    "explainer",
    "frozen",
    "gauss_legendre",
    "grad_cam",
    "grad_cam_plus_plus",
    "gradient_x_input",
    "heatmap",
    "integrated_gradients",
    "layer_cam",
    "on_logit_scale",
    "on_pixels",
    "read_off",
    "saliency",
    "scale_to_logits",
    "shape_of_maps",
    "smooth_grad",
    "training",
]

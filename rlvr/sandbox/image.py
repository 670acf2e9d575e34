"""The sandbox's image: found by what it was made from, made when there is none, and known by its digest in every verdict."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from rlvr.sandbox.engine import engine_error
from rlvr.sandbox.owner import LABEL
from rlvr.sandbox.sources import RECIPE, RUNNER, digest_of

if TYPE_CHECKING:
    from docker import DockerClient

NAME = "rlvr-sandbox"
BASE_NAME = f"{NAME}-base"  # images without the runner
LABEL_RUNNER, LABEL_RECIPE, LABEL_LAYERS = "org.rlvr.runner", "org.rlvr.recipe", "org.rlvr.layers"
LABEL_ORIGIN, LABEL_VERSIONS, LABEL_CHOSEN = "org.rlvr.origin", "org.rlvr.version.", "org.rlvr.chosen"
Progress = Callable[[str], None]


class Layer(StrEnum):
    """What an image may have besides Python itself."""

    SCIENCE = "science"  # numpy, sympy, mpmath
    CPP = "cpp"  # g++


ALL_LAYERS = tuple(Layer)


@dataclass(frozen=True, slots=True)
class Image:
    """An image that passed its self-test. `digest` is the engine's id of its content and settings ("sha256:...")."""

    tag: str
    digest: str
    layers: tuple[Layer, ...]
    origin: str  # what it was made from, in words
    versions: Mapping[str, str]  # "python", "numpy", ...
    size_mb: float
    is_current: bool  # made from the sources of this rlvr
    is_chosen: bool = False  # the user asked for these layers

    def has(self, layers: Sequence[Layer]) -> bool:
        return set(layers) <= set(self.layers)


def find_image(client: DockerClient, layers: Sequence[Layer] | None = None) -> Image | None:
    """The image of this rlvr with at least `layers`, of several the one with the fewest others; `layers` as in `ensure_image`."""
    return fitting_image(list_images(client), layers)


def fitting_image(images: Sequence[Image], layers: Sequence[Layer] | None = None) -> Image | None:
    """As `find_image`, among images that are known already."""
    current = [image for image in images if image.is_current]
    if layers is None:
        wanted = [image for image in current if image.is_chosen or image.has(ALL_LAYERS)]
        return max(wanted, key=lambda image: len(image.layers), default=None)
    return min((image for image in current if image.has(layers)), key=lambda image: len(image.layers), default=None)


def list_images(client: DockerClient) -> list[Image]:
    """Every image that rlvr made on this engine, the current ones first.

    Raises:
        SandboxError: the engine does not answer.
    """
    with engine_error("listing images"):
        found = [described(image) for image in client.images.list(filters={"label": LABEL_RUNNER})]
    return sorted(found, key=lambda image: (not image.is_current, image.tag))


def described(image: Any) -> Image:
    """What docker-py's image says of itself."""
    labels: Mapping[str, str] = image.labels
    return Image(
        tag=next(iter(image.tags), image.id),
        digest=str(image.id),
        layers=tuple(layer for layer in Layer if layer in labels.get(LABEL_LAYERS, "").split(",")),
        origin=labels.get(LABEL_ORIGIN, ""),
        versions={
            key.removeprefix(LABEL_VERSIONS): text for key, text in sorted(labels.items()) if key.startswith(LABEL_VERSIONS)
        },
        size_mb=image.attrs.get("Size", 0) / 1e6,
        is_chosen=labels.get(LABEL_CHOSEN) == "1",
        # A build takes the name from the image before it, which then waits to be pruned.
        is_current=bool(image.tags)
        and labels.get(LABEL_RUNNER) == digest_of(RUNNER)
        and labels.get(LABEL_RECIPE) == digest_of(RECIPE),
    )


def tag_of(layers: Sequence[Layer]) -> str:
    return f"{NAME}:{_key(digest_of(RUNNER), *sorted_layers(layers), digest_of(RECIPE))}"


def base_tag_of(layers: Sequence[Layer]) -> str:
    """The image without the runner, so that a new runner costs a second and not a minute."""
    return f"{BASE_NAME}:{_key(*sorted_layers(layers), digest_of(RECIPE))}"


def sorted_layers(layers: Sequence[Layer]) -> list[Layer]:
    return [layer for layer in Layer if layer in layers]


def image_labels(layers: Sequence[Layer], origin: str, versions: Mapping[str, str], *, is_chosen: bool = False) -> dict[str, str]:
    return {
        LABEL: "1",
        LABEL_RUNNER: digest_of(RUNNER),
        LABEL_RECIPE: digest_of(RECIPE),
        LABEL_LAYERS: ",".join(sorted_layers(layers)),
        LABEL_ORIGIN: origin,
        LABEL_CHOSEN: str(int(is_chosen)),
        **{f"{LABEL_VERSIONS}{name}": version for name, version in versions.items()},
    }


def _key(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]

from __future__ import annotations

from collections.abc import Sequence

import pytest

from rlvr.sandbox.image import ALL_LAYERS, Image, Layer, fitting_image

SCIENCE, CPP = Layer.SCIENCE, Layer.CPP


def image(*layers: Layer, is_current: bool = True, is_chosen: bool = False) -> Image:
    tag = "-".join([*layers, "current" if is_current else "old", "chosen" if is_chosen else "made"])
    return Image(tag, "sha256:1", layers, "", {}, 1.0, is_current, is_chosen)


@pytest.mark.parametrize(
    ("there", "wanted", "found"),
    [
        ([], None, None),
        ([image(SCIENCE, CPP)], None, image(SCIENCE, CPP)),
        ([image()], None, None),
        ([image(is_chosen=True)], None, image(is_chosen=True)),
        ([image(is_chosen=True), image(SCIENCE, is_chosen=True)], None, image(SCIENCE, is_chosen=True)),
        ([image(is_chosen=True), image(SCIENCE, CPP)], None, image(SCIENCE, CPP)),
        ([image(SCIENCE, CPP, is_current=False)], None, None),
        ([image(), image(SCIENCE, CPP)], [], image()),
        ([image(), image(SCIENCE, CPP)], [CPP], image(SCIENCE, CPP)),
        ([image(), image(SCIENCE)], [CPP], None),
    ],
)
def test_an_image_without_layers_is_used_by_default_only_if_the_user_asked_for_it(
    there: Sequence[Image], wanted: Sequence[Layer] | None, found: Image | None
) -> None:
    assert fitting_image(there, wanted) == found


def test_all_layers_are_all_there_are() -> None:
    assert set(ALL_LAYERS) == set(Layer)

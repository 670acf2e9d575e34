"""What rlvr has on an engine: containers in use, and what crashed runs and older versions left behind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rlvr.sandbox.engine import engine_error
from rlvr.sandbox.image import BASE_NAME, base_tag_of, list_images
from rlvr.sandbox.owner import LABEL, LABEL_OWNER, LABEL_POOL, owner_is_alive, owner_is_of_this_machine

if TYPE_CHECKING:
    from docker import DockerClient

LABEL_STAGE = "org.rlvr.sandbox.stage"
# A container exists for a moment before it is started and after it has stopped, also on machines that cannot be asked from here.
SETTLED_S = 120.0


@dataclass(frozen=True, slots=True)
class Container:
    """A container of ours. `is_left`: nobody will use it again."""

    name: str
    status: str  # the engine's word: running, exited, ...
    pool: str
    owner: str
    slots: int
    purpose: str
    age_s: float
    image: str
    is_left: bool


@dataclass(frozen=True, slots=True)
class Removed:
    """What `prune` removed."""

    containers: tuple[str, ...]
    images: tuple[str, ...]
    unnamed: int = 0  # images and layers that had no name


def list_containers(client: DockerClient) -> list[Container]:
    """
    Raises:
        SandboxError: the engine does not answer.
    """
    with engine_error("listing sandbox containers"):
        # Others end at the same moment: one that is gone by the time it is looked at is not an error.
        found = client.containers.list(all=True, filters={"label": LABEL}, ignore_removed=True)
    return sorted((_described(container) for container in found), key=lambda container: container.name)


def remove_leftovers(client: DockerClient, *, images: bool = False) -> Removed:
    """Remove containers that nobody will use again, and with `images` every image that is not of this rlvr.

    Raises:
        SandboxError: the engine does not answer.
    """
    gone = tuple(container.name for container in list_containers(client) if container.is_left and _remove(client, container.name))
    if not images:
        return Removed(gone, ())
    return Removed(gone, _remove_old_images(client), _remove_unnamed_images(client))


def _described(container: Any) -> Container:
    labels = container.labels
    owner = labels.get(LABEL_OWNER, "")
    age_s = (datetime.now(UTC) - _moment(container.attrs["Created"])).total_seconds()
    if owner_is_of_this_machine(owner):
        is_left = not owner_is_alive(owner)  # whoever runs removes what is its own
    else:
        # A pool replaces what has stopped, and never starts it again.
        is_left = container.status in ("created", "exited", "dead") and age_s > SETTLED_S
    return Container(
        name=container.name,
        status=container.status,
        pool=labels.get(LABEL_POOL, ""),
        owner=owner,
        slots=int(labels.get(f"{LABEL}.slots", "0")),
        purpose=labels.get(f"{LABEL}.purpose", "self-test"),
        age_s=max(age_s, 0.0),
        image=str(container.attrs.get("Image", "")),
        is_left=is_left,
    )


def _moment(text: str) -> datetime:
    """The engine's time stamps have nine digits of fractions, and Python takes six."""
    return datetime.fromisoformat(re.sub(r"\.(\d{1,6})\d*", r".\1", text))


def _remove(client: DockerClient, name: str) -> bool:
    from docker.errors import APIError

    with engine_error(f"removing the container {name}"):
        try:
            container = client.containers.get(name)
            container.remove(force=True, v=True)
        except APIError as error:
            if error.status_code not in (404, 409):
                raise
            return False  # its owner, or another prune, was faster
    return True


def _remove_old_images(client: DockerClient) -> tuple[str, ...]:
    from docker.errors import APIError

    images = list_images(client)
    current = {base_tag_of(image.layers) for image in images if image.is_current}
    old = [image.tag for image in images if not image.is_current and image.tag != image.digest]
    with engine_error("removing images"):
        old += [tag for image in client.images.list(name=BASE_NAME) for tag in image.tags if tag not in current]
        removed = []
        for tag in old:
            try:
                client.images.remove(tag)
            except APIError as error:
                if error.status_code not in (404, 409):  # gone already, or a container still runs in it
                    raise
            else:
                removed.append(tag)
    return tuple(removed)


def _remove_unnamed_images(client: DockerClient) -> int:
    """The Dockerfile's first stage, and what a newer build took the name from."""
    with engine_error("removing images"):
        pruned = [client.images.prune(filters={"dangling": True, "label": label}) for label in (LABEL_STAGE, LABEL)]
    return sum("Deleted" in image for found in pruned for image in found["ImagesDeleted"] or ())

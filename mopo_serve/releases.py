"""Versions on their way into a deployment: read from disk, made known to the engines, and retired.

vLLM loads adapters at run time by path. Only directories of families that the operator allowed are ever named to it,
and an adapter that changed gets a new name, because vLLM keeps the cached prefixes of a name.
"""

import asyncio
import filecmp
import hashlib
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path

from mopo_serve.deployment import Version
from mopo_serve.engines import Pool, Replica
from mopo_serve.routing import Routing, read_routing
from mopo_train.errors import EngineError, FamilyError
from mopo_train.family import base_model_path, read_family

POLL_SECONDS = 0.5
log = logging.getLogger("mopo_serve")


class Releases:
    """Makes versions of the families below ``allowed`` directories and brings their adapters to the engines."""

    def __init__(self, root: Path, profiles: Path | None, allowed: Iterable[Path] = ()) -> None:
        self.root, self.profiles = root, profiles
        self._allowed = [path.resolve() for path in (*allowed, root)]
        self._served: dict[str, str] = {}
        """Adapter fingerprint by the name under which engines serve it."""
        self._places: dict[str, Path] = {}
        """Directory of an adapter by that name."""

    def first(self, routing: Routing) -> Version:
        """The version that the engines were started with: a policy is called by its id."""
        self._served = adapter_fingerprints(self.root, routing)
        self._places = adapter_places(self.root, routing)
        return version_of(routing, self.root, self.profiles, names={})

    async def make(self, pool: Pool, root: Path | None, profiles: Path | None) -> Version:
        """The version in ``root`` as it is on disk now, served by every engine. Raises MopoError; nothing changed then.

        Where ``root`` is None, it is the family that the gateway was started with.
        """
        place = self.root if root is None else self._permitted(root)
        table = profiles or (self.profiles if root is None else None)
        routing = await asyncio.to_thread(read_routing, place, table)
        wanted = await asyncio.to_thread(adapter_fingerprints, place, routing)
        own = await asyncio.to_thread(read_family, self.root)
        bases = base_model_path(place, routing.family), base_model_path(self.root, own)
        if not await asyncio.to_thread(same_model, *bases):
            raise FamilyError(
                f"the family in '{place}' has another base model than the one being served; start a gateway of its own."
            )
        names = {policy: self._name(policy, print_) for policy, print_ in wanted.items()}
        missing = {name: policy for policy, name in names.items() if name not in self._served}
        places = adapter_places(place, routing)
        for name, policy in missing.items():
            await self._load(pool, name, places[policy])
            self._served[name], self._places[name] = wanted[policy], places[policy]
        changed = {policy: name for policy, name in names.items() if name != policy}
        return await asyncio.to_thread(version_of, routing, place, table, changed)

    async def retire(self, pool: Pool, old: Version, live: Iterable[Version]) -> None:
        """When the last request of ``old`` is done, unload the adapters that no ``live`` version uses."""
        while old.in_flight:
            await asyncio.sleep(POLL_SECONDS)
        needed = {version.engine_name(policy) for version in live for policy in version.routing.cards}
        for policy in old.routing.cards:
            name = old.engine_name(policy)
            if name in needed or name not in self._served or "@" not in name:
                continue
            del self._served[name], self._places[name]
            for replica in pool.replicas:
                try:
                    await replica.upstream.unload_adapter(name)
                except EngineError as error:
                    log.warning("engine %s keeps adapter %s: %s", replica.name, name, error)

    def check_unchanged(self, live: Iterable[Version]) -> None:
        """Raise FamilyError where an adapter of ``live`` versions is not on disk as it was when it was scored."""
        needed = {version.engine_name(policy) for version in live for policy in version.routing.cards}
        for name, fingerprint in list(self._served.items()):
            if adapter_fingerprint(self._places[name]) == fingerprint:
                continue
            if name not in needed:
                del self._served[name]  # an engine that is started again serves something else under it
            else:
                raise FamilyError(
                    f"the adapter in '{self._places[name]}' has changed since the gateway began to serve it; start the "
                    "gateway again, which reads the new scores too."
                )

    async def load_again(self, replica: Replica) -> None:
        """Have an engine that was started again load what it had loaded, and trust it anew. Raises EngineError."""
        for name, place in list(self._places.items()):
            if "@" in name:
                await replica.upstream.load_adapter(name, str(place))
        replica.start_over()

    def _name(self, policy: str, fingerprint: str) -> str:
        """What engines call this adapter: the policy's id if that is what they were started with."""
        if self._served.get(policy) == fingerprint:
            return policy
        return f"{policy}@{fingerprint}"

    async def _load(self, pool: Pool, name: str, path: Path) -> None:
        loaded = []
        try:
            for replica in pool.replicas:
                await replica.upstream.load_adapter(name, str(path))
                loaded.append(replica)
        except EngineError as error:
            for replica in loaded:
                await replica.upstream.unload_adapter(name)
            raise EngineError(
                f"the engines cannot load the adapter '{name}' while they run: {error}. Start the gateway with "
                "--live-adapters, or attached engines with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True on a private address; "
                "or start both again."
            ) from error

    def _permitted(self, root: Path) -> Path:
        """``root`` if it lies in an allowed directory. Raises FamilyError."""
        found = root.resolve()
        if not any(found == each or each in found.parents for each in self._allowed):
            raise FamilyError(
                f"'{root}' is not in a directory that this gateway may take families from; name it with "
                "--allow-families when you start the gateway."
            )
        return found


def version_of(routing: Routing, root: Path, profiles: Path | None, names: Mapping[str, str]) -> Version:
    """``routing`` as it goes live, with a fingerprint of everything that decides."""
    digest = hashlib.sha256()
    for policy, fingerprint in adapter_fingerprints(root, routing).items():
        digest.update(f"{policy} {fingerprint}\n".encode())
    for path in [*sorted((root / "scorecards").glob("*.json")), profiles or root / "profiles.yaml"]:
        if path.is_file():
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return Version(routing, names, f"{routing.identity}+{digest.hexdigest()[:8]}")


def same_model(one: str, other: str) -> bool:
    """True if two base models are one: the same place or hub name, or directories of the same files, byte for byte."""
    if one == other:
        return True
    first, second = Path(one), Path(other)
    if not (first.is_dir() and second.is_dir()):
        return False
    names = [sorted(path.name for path in place.iterdir() if path.is_file()) for place in (first, second)]
    return names[0] == names[1] and not any(filecmp.cmpfiles(first, second, names[0], shallow=False)[1:])


def adapter_fingerprints(root: Path, routing: Routing) -> dict[str, str]:
    """What tells one adapter from another, by policy. Raises FamilyError."""
    return {policy: adapter_fingerprint(place) for policy, place in adapter_places(root, routing).items()}


def adapter_fingerprint(directory: Path) -> str:
    """A digest of an adapter's files."""
    digest = hashlib.sha256()
    for path in sorted(directory.glob("adapter_*")):
        with path.open("rb") as file:
            digest.update(f"{path.name}\n".encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def adapter_places(root: Path, routing: Routing) -> dict[str, Path]:
    """The directory of each policy's adapter. Raises FamilyError for one outside of the family."""
    found = {}
    for policy in routing.family.policies:
        if not policy.adapter:
            continue
        directory = (root / policy.adapter).resolve()
        if root.resolve() not in directory.parents:
            raise FamilyError(f"policy '{policy.id}' has its adapter outside of the family: '{directory}'.")
        found[policy.id] = directory
    return found

"""Frozen pretrained parts of a model, which are neither trained nor stored with it.

Checkpoints and weight files name a frozen part, such as a large published backbone, by its `Identity` (name,
revision, SHA-256) instead of holding a copy. Loading restores the part and compares the SHA-256.

Identities come from untrusted files: name and revision must match strict patterns, and the kind must be a key
of `RESTORERS`. Nothing in a file is imported or run.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Restorer: TypeAlias = Callable[[str, str], tuple[nn.Module, str]]
"""Takes a name without its kind, and a revision ("": the newest, or the only one); returns the module and its
exact revision."""

RESTORERS: dict[str, Restorer] = {}
"""Restorers by kind, the part of a name before the colon: "hf" restores "hf:facebook/dinov2-small"."""

_NAME = re.compile(
    r"[a-z][a-z0-9]{0,19}:[A-Za-z0-9][A-Za-z0-9_.-]{0,99}(?:/[A-Za-z0-9][A-Za-z0-9_.-]{0,99})?"
)
_REVISION = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,99})?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
NO_VALUES = "0" * 64
"""Placeholder SHA-256 of a part on PyTorch's meta device, whose tensors have no values."""


class FrozenPartError(ValueError):
    """A frozen part cannot be restored, or its weights differ from the recorded ones. One line."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """Identity of a frozen part's weights; equal identities mean equal tensors.

    Attributes:
        name: "KIND:NAME" or "KIND:OWNER/NAME", with a kind of `RESTORERS`.
        revision: version or commit of the published weights; "" if there is only one.
        sha256: SHA-256 of the tensors (`sha256_of`), in hexadecimal.

    Raises:
        FrozenPartError: a field does not match its pattern, or the kind is unknown.
    """

    name: str
    revision: str
    sha256: str

    def __post_init__(self) -> None:
        _check(self.name, self.revision)
        if not _SHA256.fullmatch(self.sha256):
            raise FrozenPartError(
                f"the SHA-256 of frozen part {self.name!r} (={self.sha256!r:.80}) must be 64 hexadecimal "
                "digits"
            )

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else self.name


def _check(name: str, revision: str) -> None:
    """Raise FrozenPartError if a name or revision cannot be restored."""
    if not _NAME.fullmatch(name):
        raise FrozenPartError(
            f"frozen part {name!r:.80} must be named KIND:NAME or KIND:OWNER/NAME, in letters, digits, '_', "
            "'.' and '-'"
        )
    kind = name.partition(":")[0]
    if kind not in RESTORERS:
        known = ", ".join(sorted(RESTORERS)) or "none here"
        raise FrozenPartError(
            f"frozen part {name!r} has an unknown kind {kind!r}, not one of: {known}; update objecthood, or "
            "import the module that defines this kind"
        )
    if not _REVISION.fullmatch(revision):
        raise FrozenPartError(
            f"the revision of frozen part {name!r} (={revision!r:.80}) must consist of letters, digits, '_', "
            "'.' and '-'"
        )


class Frozen(nn.Module):
    """A module in evaluation mode, whose weights are neither trained nor part of the model's state.

    `parameters()`, `buffers()`, `state_dict()` and `modules()` of a model exclude it, and so do optimisers,
    EMA weights, DistributedDataParallel, checkpoints and weight files. `train()` has no effect; `to()` and
    its variants move it. A deep copy shares its tensors until one of the two is moved.

    Recipes build one by name with `restore`.

    Args:
        module: the part; its parameters no longer require a gradient.
        name: "KIND:NAME" or "KIND:OWNER/NAME", from which `RESTORERS[KIND]` restores `module`.
        revision: version of the part; "" if there is only one.

    Raises:
        FrozenPartError: `RESTORERS` cannot restore a part of that name or revision.
    """

    def __init__(self, module: nn.Module, name: str, revision: str = ""):
        super().__init__()
        _check(name, revision)
        self._held = (module.eval().requires_grad_(False),)  # nn.Module does not register tuples
        self.identity = Identity(name, revision, sha256_of(module))
        """Name, revision and SHA-256 of the weights at construction."""

    @property
    def module(self) -> nn.Module:
        """The wrapped module."""
        return self._held[0]

    @property
    def num_weights(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def num_bytes(self) -> int:
        """Bytes of parameters and buffers."""
        tensors = [*self.module.parameters(), *self.module.buffers()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @torch.no_grad()
    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The part's output, without gradient."""
        return self.module(*inputs, **options)

    def train(self, mode: bool = True) -> Frozen:
        """No effect: the module stays in evaluation mode."""
        return super().train(False)

    def extra_repr(self) -> str:
        return f"{self.identity}, {type(self.module).__name__}, {self.num_weights:,} parameters, not stored"

    @torch.no_grad()
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Frozen:
        """Called by `to()`, `cuda()`, `half()` and others. Replaces the module by a moved copy, as deep
        copies of this part may share it."""
        old = [*self.module.parameters(), *self.module.buffers()]
        new = [fn(tensor) for tensor in old]
        if any(one is not other for one, other in zip(old, new, strict=True)):
            memo: dict[int, Any] = {}
            for one, other in zip(old, new, strict=True):
                is_new_parameter = isinstance(one, nn.Parameter) and one is not other
                memo[id(one)] = nn.Parameter(other, requires_grad=False) if is_new_parameter else other
            self._held = (copy.deepcopy(self.module, memo),)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Frozen:
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        own = {name: value for name, value in self.__dict__.items() if name != "_held"}
        copied.__dict__ = copy.deepcopy(own, memo) | {"_held": self._held}
        return copied


def sha256_of(module: nn.Module) -> str:
    """SHA-256 over the tensors of a module's state, in hexadecimal; `NO_VALUES` on the meta device.

    For each tensor, in order of names, a line of JSON ([name, dtype, shape]) and the values in row-major
    order, as little-endian bytes, are hashed.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if tensor.is_meta:
            return NO_VALUES
        kind = str(tensor.dtype).removeprefix("torch.")
        digest.update(json.dumps([name, kind, list(tensor.shape)]).encode() + b"\n")
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(memoryview(values.view(torch.uint8).numpy()))
    return digest.hexdigest()


def frozen_parts(model: nn.Module) -> dict[str, Frozen]:
    """The frozen parts of a model by module path ("encoder.backbone")."""
    return {path: part for path, part in model.named_modules() if isinstance(part, Frozen)}


def identities(model: nn.Module) -> dict[str, Identity]:
    """The identities of a model's frozen parts by module path."""
    return {path: part.identity for path, part in frozen_parts(model).items()}


def to_json(found: Mapping[str, Identity]) -> dict[str, dict[str, str]]:
    """Identities as JSON values for `from_json`."""
    return {path: dataclasses.asdict(identity) for path, identity in found.items()}


def from_json(facts: object) -> dict[str, Identity]:
    """Identities from JSON values of an untrusted file.

    Raises:
        FrozenPartError: the format is not that of `to_json`, or a part cannot be restored.
    """
    if not isinstance(facts, dict):
        raise FrozenPartError(f"frozen parts must be an object of module paths; got {facts!r:.60}")
    fields = {field.name for field in dataclasses.fields(Identity)}
    for path, one in facts.items():
        if not isinstance(one, dict) or one.keys() != fields or not all(type(v) is str for v in one.values()):
            raise FrozenPartError(
                f"frozen part at {path!r:.60} must have the texts {', '.join(sorted(fields))}; got "
                f"{one!r:.60}"
            )
    return {path: Identity(**one) for path, one in facts.items()}


def check_unchanged(model: nn.Module) -> None:
    """Verify the hashes of a model's frozen parts before a file without their weights is written.

    Raises:
        FrozenPartError: the weights changed after the part was restored.
    """
    hashed: dict[int, str] = {}
    for path, part in frozen_parts(model).items():
        key = id(part.module)  # shared by copies
        hashed[key] = found = hashed.get(key) or sha256_of(part.module)
        if found != part.identity.sha256:
            raise FrozenPartError(
                f"the weights of frozen part {path!r} ({part.identity}) were changed: their SHA-256 was "
                f"{part.identity.sha256} and is now {found}; keep weights and dtype as restored (files do "
                "not store them), or make the part trainable instead of `Frozen`"
            )


def compare(wanted: Mapping[str, Identity], found: Mapping[str, Identity]) -> None:
    """Check that two models have the same frozen parts.

    Args:
        wanted: identities recorded in a file.
        found: identities of the model.

    Raises:
        FrozenPartError: a part is missing, unexpected, or has other weights.
    """
    for path in sorted(wanted.keys() | found.keys()):
        one, other = wanted.get(path), found.get(path)
        if one is None or other is None:
            raise FrozenPartError(
                f"the model has {other or 'no frozen part'} at {path!r}, but the file names {one or 'none'}; "
                "use the recipe that the file was made with"
            )
        if one != other:
            raise FrozenPartError(
                f"frozen part {path!r} is {other} with SHA-256 {other.sha256}, but the file was made with "
                f"{one} with SHA-256 {one.sha256}; restore these"
            )


def share_weights(model: nn.Module, twin: nn.Module) -> None:
    """Make the frozen parts of `twin`, a weight-shared copy, use the tensors of `model`.

    Raises:
        FrozenPartError: the two have different frozen parts.
    """
    compare(identities(model), identities(twin))
    own = frozen_parts(model)
    for path, part in frozen_parts(twin).items():
        part.module.load_state_dict(own[path].module.state_dict(keep_vars=True), assign=True)


@dataclasses.dataclass
class _Allowed:
    """Identities that `restore` may restore while a file is loaded, and the parts restored so far."""

    identities: tuple[Identity, ...]
    restored: dict[tuple[str, str], Frozen] = dataclasses.field(default_factory=dict)


_allowed: ContextVar[_Allowed | None] = ContextVar("allowed", default=None)
_restoring: ContextVar[bool] = ContextVar("restoring", default=False)


def is_restoring() -> bool:
    """Whether a `Restorer` is running: new weights then belong to a frozen part."""
    return _restoring.get()


def is_loading() -> bool:
    """Whether parts are restored for a weight file, which may be someone else's (`only`)."""
    return _allowed.get() is not None


@contextlib.contextmanager
def only(wanted: Mapping[str, Identity]) -> Iterator[None]:
    """A context in which `restore` accepts these identities only, with their revisions, each restored once:
    a recipe from an untrusted file gets the parts that the file names."""
    token = _allowed.set(_Allowed(tuple(wanted.values())))
    try:
        yield
    finally:
        _allowed.reset(token)


def restore(name: str, revision: str = "") -> Frozen:
    """Restore a frozen part by name with `RESTORERS`.

    The global random state is unchanged, so the initialisation of other weights does not depend on the part.

    Args:
        name: "KIND:NAME" or "KIND:OWNER/NAME".
        revision: version of the part; "": the one named by the file being loaded, else the restorer's choice.

    Raises:
        FrozenPartError: the name is malformed, its kind is unknown, or the part cannot be found.

    Example:
        >>> RESTORERS["example"] = lambda name, revision: (nn.Linear(3, int(name)), "1")
        >>> part = restore("example:2")
        >>> part.identity.name, part.identity.revision, list(part.parameters())
        ('example:2', '1', [])
        >>> _ = RESTORERS.pop("example")
    """
    _check(name, revision)
    allowed = _allowed.get()
    if allowed is None:
        return _restore(name, revision)
    for one in allowed.identities:
        if one.name == name and revision in ("", one.revision):
            key = (name, one.revision)
            if key not in allowed.restored:
                allowed.restored[key] = _restore(*key)
            return copy.deepcopy(allowed.restored[key])
    named = ", ".join(sorted({str(one) for one in allowed.identities})) or "none"
    wanted = f"{name}@{revision}" if revision else name
    raise FrozenPartError(f"the recipe needs frozen part {wanted}, but the file names {named}")


def _restore(name: str, revision: str) -> Frozen:
    kind, _, rest = name.partition(":")
    token = _restoring.set(True)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            module, exact = RESTORERS[kind](rest, revision)
    except Exception as error:  # network and third-party libraries raise many types
        reason = " ".join(str(error).split()) or type(error).__name__
        wanted = f"{name}@{revision}" if revision else name
        raise FrozenPartError(f"frozen part {wanted} cannot be found ({reason})") from error
    finally:
        _restoring.reset(token)
    part = Frozen(module, name, exact)
    device = torch.empty(0).device  # of a surrounding `with torch.device(...)`; on meta the part keeps values
    return part if device.type == "meta" else part.to(device)

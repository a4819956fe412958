"""A key, a method or a value that does not exist, in one line: which one was meant, and which ones there are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from fedllm_bench.common.errors import UserError, shown, unknown

# Names of papers, in small letters and digits alone, of what is no method here but a setting of any method.
AS_SETTINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "communication.lora_aggregation": {
        "frozen_a": ("ffalora", "ffa"),
        "share_a": ("fedsalora", "fedsa"),
        "alternate": ("rolora",),
        "flex": ("flexlora",),
        "stack": ("flora",),
        "exact": ("fedexlora", "fedex"),
        "fair": ("lorafair",),
        "restart": ("frlora",),
    },
    "aggregation.rule": {
        "median": ("median",),
        "trimmed_mean": ("trimmedmean",),
        "krum": ("krum",),
        "multi_krum": ("multikrum",),
        "bulyan": ("bulyan",),
        "norm_bound": ("normbound", "normclipping"),
    },
    "attack.kind": {
        "trigger": ("backdoor",),
        "scaled": ("modelreplacement",),
        "sign_flip": ("signflip", "signflipping"),
    },
    "communication.secure_sum": {"true": ("secagg", "secureaggregation", "securesum")},
    "lora.dora": {"true": ("dora",)},
    "model.quantization": {"4bit": ("qlora",)},
    "local.loss": {"dpo": ("dpo",), "kto": ("kto",)},
    "offsite.variant": {  # which layers it is of must be said too
        "fedot --set offsite.right=2": ("fedot", "offsitetuning"),
        "fedbiot --set offsite.right=2": ("fedbiot",),
    },
    "local.dpo_loss": {"ipo": ("ipo",), "simpo": ("simpo",), "orpo": ("orpo",)},
}
# The same of what is another method with some constants.
AS_METHODS = {
    "fedrep --set method.order=together": ("fedper",),
    "fedrep --set method.order=together --set method.local_parts=norm --set model.trainable=full": ("fedbn",),
    "fedkseed --set method.pro=true": ("fedkseedpro",),
}
OF_PREFERENCES = "local."  # settings for data sets of preferences


def _plain(name: object) -> str:
    return "".join(letter for letter in str(name).lower() if letter.isalnum())


def _method_for(name: str) -> str:
    """What to give for a paper's name that is no method here, as "...; take fedavg --set KEY=VALUE"; or ""."""
    for words, papers in AS_METHODS.items():
        if _plain(name) in papers:
            return f"it is a method with other constants here; take {words}"
    setting = setting_of(name)
    if not setting:
        return ""
    where = "a data set of preferences, as chatbot_pa, and " if setting.startswith(OF_PREFERENCES) else ""
    return f"it is a setting of other methods here; take {where}fedavg --set {setting}"


def setting_of(name: object) -> str:
    """The setting that a paper's name stands for, as "communication.lora_aggregation=alternate"; "" where none does."""
    plain = _plain(name)
    found = (f"{key}={value}" for key, of in AS_SETTINGS.items() for value, papers in of.items() if plain in papers)
    return next(found, "")


def no_method(name: str, known: Iterable[str], advice: str = "") -> UserError:
    """What is said of a name that no method has; of a paper's name, what to give for it."""
    if papers := _method_for(name):
        return UserError(f"no method {shown(name)}: {papers}")
    return unknown("method", name, known, advice)


def unknown_option(key: str, known: Iterable[str], where: str = "") -> str:
    """One line for a key that does not exist: the nearest full key, and what there is in its section."""
    names = sorted(known)
    section = key.partition(".")[0]
    listed = [name for name in names if name.startswith(f"{section}.")]
    listed = listed or sorted({name.partition(".")[0] + ".*" for name in names})
    near = _nearest(key, names)
    hint = f"; did you mean {near!r}?" if near else "."
    return f"no option {shown(key)}{where}{hint} There are: {', '.join(listed)}"


def _is_common(name: str) -> bool:
    """Whether a short name such as "lr" may be meant of its section: not of one that is off in most runs."""
    return not name.startswith("offsite.")


def _nearest(key: str, names: list[str]) -> str | None:
    """The key with the same last part ("lr" is "local.lr"), else the one that is spelt most alike."""
    last_parts = {name.rpartition(".")[2]: name for name in sorted(names, key=_is_common)}
    last = key.rpartition(".")[2]
    if last in last_parts:
        return last_parts[last]
    if near := difflib.get_close_matches(key, names, n=1, cutoff=0.75):
        return near[0]
    near = difflib.get_close_matches(last, list(last_parts), n=1, cutoff=0.6)
    return last_parts[near[0]] if near else None

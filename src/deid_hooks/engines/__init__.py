"""Finding an engine by its name: ``basic``, ``dicognito``, or one that a distribution brings."""

from __future__ import annotations

from collections.abc import Callable

from pydicom import Dataset

from deid_hooks import DeidHooksError, PluginError, Pseudonyms, SettingsError, installed

Engine = Callable[[Dataset], None]
"""De-identifies a dataset in place."""

GROUP = "deid_hooks.engines"


def engine_of(name: str, pseudonyms: Pseudonyms) -> Engine:
    """The engine of a name, or of ``NAME:ARGUMENT``, ready for one project.

    The entry point is a factory called with the argument and the pseudonyms. Raises SettingsError
    for an engine that isn't installed, PluginError for one that can't be imported or made.
    """
    plain, _, argument = name.partition(":")
    known = installed(GROUP)
    if plain not in known:
        raise SettingsError(f"There is no engine {plain}. Installed are {', '.join(known)}.")
    factory = known[plain].load()
    try:
        engine: Engine = factory(argument, pseudonyms)
    except DeidHooksError:
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - its text may hold patients' labels
        raise PluginError(
            f"The engine {known[plain]} can't be made: {type(error).__name__}."
            " Look at its argument, or repair it."
        ) from None
    return engine

"""From a command line to typed settings to a connected Ray to an exit code.

``compose`` finds configuration in the caller's ``conf/`` first, then in the packaged one. ``job`` is what every file in
``jobs/`` calls. Hydra is the door only: nothing below sees a DictConfig.
"""

import difflib
import json
import logging
import os
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from raysaas import cluster
from raysaas.errors import ConfigError, RaysaasError
from raysaas.settings import Settings

log = logging.getLogger("raysaas")


def packaged_conf() -> Path:
    """The defaults that come with the package: inside the wheel, or ``conf/`` of the checkout."""
    inside = Path(__file__).parent / "conf"
    return inside if inside.is_dir() else Path(__file__).resolve().parents[2] / "conf"


def conf_dirs() -> list[Path]:
    """Where configuration is looked up: ``./conf`` when there is one, then the packaged one."""
    own = Path.cwd() / "conf"
    return [own, packaged_conf()] if own.is_dir() and own.resolve() != packaged_conf().resolve() else [packaged_conf()]


class OwnConf(SearchPathPlugin):
    """Puts ``./conf`` before the packaged configuration, for ``compose`` and for ``hydra.main`` in ``jobs/`` alike."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra whenever it sets up its search path."""
        for path in conf_dirs()[:-1]:
            search_path.prepend("raysaas", f"file://{path}")


Plugins.instance().register(OwnConf)


def compose(overrides: list[str]) -> Settings:
    """Compose settings from ``conf/`` and ``key=value`` overrides; a mistake is one ConfigError sentence."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(packaged_conf()), version_base="1.3"):
            return typed(hydra_compose("config", overrides=overrides))
    except HydraException as error:
        raise _explained(error, overrides) from error


def typed(cfg: DictConfig) -> Settings:
    """Check a composed config against the dataclasses of settings.py."""
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Settings), cfg)
        settings = OmegaConf.to_object(merged)
    except ConfigKeyError as error:
        raise ConfigError(_unknown_key(str(error.full_key))) from error
    except OmegaConfBaseException as error:
        said = (error.msg or "is wrong").splitlines()[0]
        inner = re.search(r"raised while resolving interpolation: [\"'](.*)[\"']$", said)
        raise ConfigError(f"{error.full_key}: {inner.group(1) if inner else said}.") from error
    if not isinstance(settings, Settings):
        raise ConfigError("The configuration is not a raysaas configuration.")
    _check_home(Path(settings.storage.home))
    return settings


def _check_home(home: Path) -> None:
    nearest = next(path for path in (home, *home.absolute().parents) if path.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        what = "is not a folder" if not nearest.is_dir() else "cannot be written"
        raise ConfigError(f"home={home} cannot be used: {nearest} {what}.")


def _unknown_key(path: str) -> str:
    """One sentence on a dotted path that does not exist, naming the nearest key where it leaves the known ones."""
    kind: Any = Settings
    walked: list[str] = []
    for key in path.split("."):
        fields = get_type_hints(kind) if is_dataclass(kind) else {}
        if fields and key not in fields:
            rest = path.split(".")[len(walked) + 1 :]
            return f"There is no setting {path!r}{_nearest(key, list(fields), walked, rest)}"
        kind = fields[key] if fields else (get_args(kind) or (None,))[-1]
        if isinstance(kind, UnionType):
            kind = next((one for one in get_args(kind) if is_dataclass(one)), kind)
        walked.append(key)
    return f"There is no setting {path!r}."


def _nearest(key: str, known: list[str], before: Sequence[str] = (), after: Sequence[str] = ()) -> str:
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if not close:
        return f": choose one of {', '.join(sorted(known))}."
    return f": did you mean {'.'.join([*before, close[0], *after])!r}?"


def _explained(error: HydraException, overrides: list[str]) -> ConfigError:
    """Turn Hydra's several-line errors into one sentence that names the nearest key or choice."""
    text = str(error)
    if match := re.search(r"Could not find '(\w+)/([\w.-]*)'", text):
        group, choice = match.groups()
        names = sorted({path.stem for folder in conf_dirs() for path in (folder / group).glob("*.yaml")})
        return ConfigError(f"There is no {group} named {choice!r}{_nearest(choice, names)}")
    if match := re.search(r"Could not override '([^']+)'", text):
        return ConfigError(_unknown_key(match.group(1)))
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return ConfigError(f"The command line {' '.join(overrides)!r} cannot be read: {first}.")


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP came: what was begun is cleaned up as for Ctrl-C."""


def _end_on_sigterm() -> None:
    def end(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, end)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Clean up to the end, whoever presses Ctrl-C again."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def exit_codes(debug: bool = False) -> Iterator[None]:
    """Turn every outcome into an exit code: 65 and 75 with one sentence for expected errors, 130 and 143 for an
    interrupt, 1 for a bug."""
    _end_on_sigterm()
    try:
        yield
    except RaysaasError as error:
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except Terminated:
        sys.stderr.write("terminated\n")
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(128 + signal.SIGINT)
    except Exception as error:  # noqa: BLE001  the door: whatever is not expected is reported as a bug
        if inner := _cause(error):
            sys.stderr.write(f"error: {inner}\n")
            sys.exit(inner.exit_code)
        traceback.print_exc()
        sys.stderr.write("error: this is a bug in raysaas; the trace-back above says where.\n")
        sys.exit(1)


def _cause(error: BaseException | None) -> RaysaasError | None:
    """The expected error behind a RayTaskError or a Train/Tune wrapper, if there is one."""
    while error is not None:
        if isinstance(error, RaysaasError):
            return error
        error = getattr(error, "cause", None) or error.__cause__
    return None


def connected(settings: Settings, job: str) -> None:
    """Connect this process to the installation's Ray head (started when none runs); the job carries its use case."""
    cluster.connect(settings, metadata={"use_case": settings.use_case.name, "job": job})
    _end_on_sigterm()  # Ray has put a handler of its own in its place


def setup_logging() -> None:
    """Progress lines on stderr; stdout belongs to results."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log.setLevel(os.environ.get("RAYSAAS_LOG", "INFO"))
    if "RAYSAAS_DEBUG" not in os.environ:
        logging.getLogger().setLevel(logging.WARNING)  # Hydra sets INFO in jobs
        warnings.simplefilter("ignore", DeprecationWarning)  # those of the libraries are not the user's


def job(name: str, verb: Callable[[Settings], Any], cfg: DictConfig) -> None:
    """Run one verb of lifecycle.py as a job: check settings, connect, act, report on stdout, exit."""
    setup_logging()
    with exit_codes(debug="RAYSAAS_DEBUG" in os.environ):
        settings = typed(cfg)
        connected(settings, name)
        sys.stdout.write(json.dumps(verb(settings), default=str) + "\n")


def check_arguments() -> None:
    """Check the command line before Hydra does, so that a typo gets one sentence and exit code 65."""
    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    if not any(word in sys.argv for word in ("--multirun", "-m", "--help", "--hydra-help")):
        with exit_codes():
            compose(words)


def saved(path: Path) -> Settings:
    """Settings that ``lifecycle.deploy`` wrote next to an application."""
    return typed(DictConfig(json.loads(path.read_text())))


def amended(kept: Settings, composed: Settings, overrides: Sequence[str]) -> Settings:
    """``kept`` with just those values of ``composed`` that ``overrides`` (``a.b=c``) name."""
    body, given = (DictConfig(json.loads(json.dumps(asdict(each)))) for each in (kept, composed))
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0].replace("/", ".")
        OmegaConf.update(body, key, OmegaConf.select(given, key), merge=False)
    return typed(body)

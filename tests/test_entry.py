"""Configuration: composed from conf/, the caller's own first; a mistake is one sentence and exit code 65."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from raysaas import entry, errors
from raysaas.errors import ConfigError, RaysaasError, Terminal, Transient
from raysaas.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
USE_CASES = sorted(path.stem for path in (ROOT / "conf" / "use_case").glob("*.yaml"))


@pytest.mark.parametrize("name", ["a__x", "a_"])
def test_a_use_case_whose_tables_could_be_those_of_another_is_refused(
    make_settings: Callable[..., Settings], name: str
) -> None:
    with pytest.raises(ConfigError, match=f"use_case.name='{name}' is not allowed: expected no two underscores"):
        make_settings("use_case=telco_churn", f"use_case.name={name}")


@pytest.mark.parametrize("name", USE_CASES)
def test_every_use_case_composes(name: str, make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(f"use_case={name}")
    assert settings.use_case.name == name
    assert settings.use_case.title


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("train.epochz=3", "There is no setting 'train.epochz': did you mean 'train.epochs'?"),
        ("tarin.epochs=3", "There is no setting 'tarin.epochs': did you mean 'train.epochs'?"),
        ("use_case=telco_chrn", "There is no use_case named 'telco_chrn': did you mean 'telco_churn'?"),
        ("train.epochs=many", "train.epochs: Value 'many' of type 'str' could not be converted to Integer"),
        ("train.epochs=0", "train.epochs=0 is not allowed: expected a positive number"),
        ("ingest.error_budget=2", r"ingest.error_budget=2.0 is not allowed: expected a share from 0 up to 1"),
        ("serve.extra_fields=maybe", "serve.extra_fields: Invalid value 'maybe', expected one of"),
        ("cluster.multi_node=true", "cannot share SQLite: set storage.catalog_url"),
        ("storage.online_url=mysql://me:secret@db", "storage.online_url='mysql://...' is not allowed: expected a URL"),
        ("nonsense", "cannot be read"),
        ("use_case=", "There is no use_case named '': choose one of"),
        ("home=/dev/null/x", "home=/dev/null/x cannot be used: /dev/null is not a folder."),
        ("storage=postgres", "Environment variable 'RAYSAAS_POSTGRES_URL' not found."),
        ("+use_case.sources.a.colums=1", "'use_case.sources.a.colums': did you mean 'use_case.sources.a.columns'?"),
        ("+use_case.sources.a.sql.tabel=1", "did you mean 'use_case.sources.a.sql.table'?"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(override: str, sentence: str, make_settings: Callable[..., Settings]) -> None:
    with pytest.raises(ConfigError) as caught:
        make_settings(override)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_her_conf_is_searched_before_the_packaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_settings: Callable[..., Settings]
) -> None:
    own = tmp_path / "conf"
    (own / "use_case").mkdir(parents=True)
    (own / "train").mkdir()
    text = (ROOT / "conf/use_case/telco_churn.yaml").read_text()
    (own / "use_case" / "mine.yaml").write_text(text.replace("name: telco_churn", "name: mine", 1))
    (own / "train" / "default.yaml").write_text("epochs: 7\n")
    monkeypatch.chdir(tmp_path)
    settings = make_settings("use_case=mine")
    assert (settings.use_case.name, settings.train.epochs) == ("mine", 7)
    assert make_settings("use_case=telco_churn").use_case.name == "telco_churn"


def test_saved_settings_come_back_equal(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    import json
    from dataclasses import asdict

    settings = make_settings("use_case=saas_churn", "train.epochs=3", "data_dir=/data")
    (tmp_path / "settings.json").write_text(json.dumps(asdict(settings)))
    assert entry.saved(tmp_path / "settings.json") == settings


def test_overrides_of_saved_settings_change_what_they_name_and_nothing_else(
    make_settings: Callable[..., Settings],
) -> None:
    kept = make_settings("use_case=saas_churn", "data_dir=/data", "serve.max_replicas=7", "serve.port=0")
    words = ("serve.max_replicas=2", "train.epochs=3", "+use_case.sources.usage.events=true", f"home={kept.home}")
    given = make_settings("use_case=saas_churn", *words)
    changed = entry.amended(kept, given, words)
    assert (changed.serve.max_replicas, changed.train.epochs) == (2, 3), "a default too, when it is asked for"
    assert changed.use_case.sources["usage"].events
    assert (changed.data_dir, changed.serve.port, changed.storage) == ("/data", 0, kept.storage)
    assert entry.amended(kept, given, ()) == kept


def test_relative_data_folders_are_fixed_at_once(make_settings: Callable[..., Settings]) -> None:
    assert make_settings("data_dir=some/where").data_dir == str(Path.cwd() / "some/where")
    assert make_settings("data_dir=s3://bucket/x").data_dir == "s3://bucket/x"


EXIT_CODES = {Terminal: 65, Transient: 75, RaysaasError: 1}


def all_errors(root: type[RaysaasError] = RaysaasError) -> list[type[RaysaasError]]:
    children = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
    return [root, *(found for child in children for found in all_errors(child))]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda k: k.__name__)
def test_errors_cross_processes_and_have_an_exit_code(kind: type[RaysaasError]) -> None:
    back = pickle.loads(pickle.dumps(kind("what went wrong")))
    assert (type(back), str(back)) == (kind, "what went wrong")
    assert kind.exit_code == next(code for base, code in EXIT_CODES.items() if issubclass(kind, base))
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("job", sorted(path.name for path in (ROOT / "jobs").glob("*.py")))
def test_a_typo_on_a_job_is_one_sentence_before_any_engine_starts(job: str, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "jobs" / job), "use_case=telco_chrn"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 65
    assert done.stderr.strip() == "error: There is no use_case named 'telco_chrn': did you mean 'telco_churn'?"
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_says_the_same(tmp_path: Path) -> None:
    raysaas = str(Path(sys.executable).parent / "raysaas")
    command = [raysaas, "run", "train", "train.epochz=3", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (65, "")
    assert done.stderr.strip() == "error: There is no setting 'train.epochz': did you mean 'train.epochs'?"
    command.append("--debug")
    debugged = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert "Traceback" in debugged.stderr

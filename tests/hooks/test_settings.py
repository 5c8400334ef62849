"""Where a setting comes from, and the error for one that is wrong."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deid_hooks import Settings, SettingsError
from deid_hooks.records.fields import INDEXED_FIELDS
from deid_hooks.settings import KEYS, load_settings, mask_passwords
from tests.hooks.conftest import Machine


def write(folder: Path, text: str, mode: int = 0o600) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "deid-hooks.toml"
    path.write_text(text)
    path.chmod(mode)
    return path


# Precedence


def test_each_place_comes_before_the_next(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def now() -> tuple[float, str]:
        settings = load_settings()
        return settings.deadline, settings.origins["deadline"]

    assert now() == (10.0, "default")
    site = write(machine.site, "deadline = 1")
    assert now() == (1.0, str(site))
    user = write(machine.user, "deadline = 2")
    assert now() == (2.0, str(user))
    monkeypatch.setenv("DEID_HOOKS_DEADLINE", "4")
    assert now() == (4.0, "DEID_HOOKS_DEADLINE")
    settings = load_settings(deadline=5)
    assert (settings.deadline, settings.origins["deadline"]) == (5.0, "argument")


def test_each_setting_comes_from_the_first_place_that_has_it(machine: Machine) -> None:
    write(machine.site, "deadline = 1\npolicy = 'identifying'")
    write(machine.user, "deadline = 2")
    settings = load_settings(policy=None)
    assert (settings.deadline, settings.policy) == (2.0, "identifying")
    assert settings.origins["policy"] == str(machine.site / "deid-hooks.toml")
    assert set(settings.origins) == set(KEYS)


def test_a_file_of_the_current_folder_sets_nothing(machine: Machine) -> None:
    write(machine.work, "deadline = 3\nno setting")
    assert load_settings().origins["deadline"] == "default"


def test_a_named_file_takes_the_place_of_the_users(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(machine.user, "deadline = 3")
    write(machine.site, "plugin_timeout = 4")
    named = write(machine.work / "other", "policy = 'identifying'")
    monkeypatch.setenv("DEID_HOOKS_CONFIG", str(named))
    settings = load_settings()
    assert (settings.deadline, settings.policy) == (10.0, "identifying")
    assert settings.plugin_timeout == 4.0
    assert settings.origins["policy"] == str(named)


def test_a_named_file_that_is_missing_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEID_HOOKS_CONFIG", "nowhere.toml")
    with pytest.raises(SettingsError, match=r"There is no file nowhere\.toml, which"):
        load_settings()


def test_the_defaults_are_in_the_users_folders(machine: Machine) -> None:
    settings = load_settings()
    assert settings.url == f"sqlite:///{machine.data / 'log.db'}"
    assert settings.secret_file == machine.user / "secret"
    assert set(settings.origins.values()) == {"default"}


def test_a_folder_with_odd_letters_is_a_valid_url(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(machine.work / "a#b c?%20"))
    assert "/a%23b%20c%3F%2520/" in load_settings().url


def test_the_users_secret_comes_before_the_sites(machine: Machine) -> None:
    machine.site.mkdir(parents=True)
    machine.site.joinpath("secret").write_text("")
    assert load_settings().secret_file == machine.site / "secret"
    machine.user.mkdir(parents=True)
    machine.user.joinpath("secret").write_text("")
    assert load_settings().secret_file == machine.user / "secret"


def test_a_current_folder_that_was_removed_keeps_nothing_from_being_read(machine: Machine) -> None:
    write(machine.user, "deadline = 2")
    shutil.rmtree(machine.work)
    assert load_settings().deadline == 2.0


def test_a_folder_that_is_a_file_holds_no_settings(machine: Machine) -> None:
    machine.user.parent.mkdir(parents=True)
    machine.user.write_text("")
    assert load_settings().deadline == 10.0


def test_a_file_that_may_be_there_and_cant_be_read_is_an_error(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(machine.user, "").unlink()
    machine.user.joinpath("deid-hooks.toml").mkdir()
    with pytest.raises(SettingsError, match="can't be read: Is a directory"):
        load_settings()
    monkeypatch.setenv("XDG_CONFIG_HOME", "/" + "x" * 300)
    with pytest.raises(SettingsError, match="can't be read: File name too long"):
        load_settings()


# What the site locks


def test_no_variable_names_other_settings_of_the_site(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write(machine.site, "deadline = 1")
    for name in ("XDG_CONFIG_DIRS", "XDG_CONFIG_HOME", "HOME", "DEID_HOOKS_CONFIG"):
        monkeypatch.setenv(name, str(write(machine.work, "policy = 'all'")))
        assert load_settings().origins["deadline"] == str(site)


def test_what_the_site_locks_comes_from_its_file(machine: Machine) -> None:
    site = write(machine.site, "policy = 'identifying'\nlocked = ['policy', 'require_reason']")
    settings = load_settings(policy="identifying", deadline=3)
    assert (settings.policy, settings.require_reason) == ("identifying", False)
    assert settings.origins["policy"] == f"{site} (locked)"
    assert settings.origins["require_reason"] == "default (locked)"


def test_a_locked_setting_can_not_be_changed_from_anywhere(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write(machine.site, "require_reason = true\nlocked = ['require_reason']")
    with pytest.raises(SettingsError) as caught:
        load_settings(require_reason=False)
    assert str(caught.value).startswith(f"{site} locks require_reason, which the argument would")
    user = write(machine.user, "require_reason = false")
    with pytest.raises(SettingsError, match=f"which {user} would change"):
        load_settings()
    monkeypatch.setenv("DEID_HOOKS_REQUIRE_REASON", "false")
    with pytest.raises(SettingsError, match="which DEID_HOOKS_REQUIRE_REASON would change"):
        load_settings()


def test_a_locked_default_can_not_be_changed(machine: Machine) -> None:
    write(machine.site, "locked = ['disabled_plugins']")
    with pytest.raises(SettingsError, match="locks disabled_plugins"):
        load_settings(disabled_plugins=["quota"])


def test_a_locked_secret_file_keeps_the_variable_out(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(machine.site, "secret_file = '/srv/secret'\nlocked = ['secret_file']")
    monkeypatch.setenv("DEID_HOOKS_SECRET", "hunter2" * 10)
    with pytest.raises(SettingsError, match="which DEID_HOOKS_SECRET would change") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("locked = ['polcy']", r"locked names an unknown setting polcy .*mean policy\?"),
        ("locked = 'policy'", "locked must be a list"),
        ("locked = [1]", "locked must be a list"),
    ],
)
def test_locks_that_mean_nothing_are_an_error(machine: Machine, text: str, message: str) -> None:
    write(machine.site, text)
    with pytest.raises(SettingsError, match=message):
        load_settings()


RULES = "[projects.TRIAL7]\nengine = 'dicognito'\ndestinations = ['folder:/srv/out']"


def test_a_project_has_its_engine_and_its_destinations(machine: Machine) -> None:
    write(machine.user, RULES)
    settings = load_settings()
    assert settings.choose_engine("TRIAL7") == "dicognito"
    assert settings.choose_engine("TRIAL7", "dicognito") == "dicognito"
    settings.refuse_destination("TRIAL7", "folder:/srv/out")
    with pytest.raises(SettingsError, match="de-identified by the engine dicognito"):
        settings.choose_engine("TRIAL7", "basic")
    with pytest.raises(SettingsError, match=r"is not sent to pacs: .* allows folder:/srv/out"):
        settings.refuse_destination("TRIAL7", "pacs")


def test_a_project_without_rules_has_any(machine: Machine) -> None:
    write(machine.user, RULES)
    settings = load_settings()
    assert settings.choose_engine("OTHER") == "basic"
    assert settings.choose_engine("OTHER", "dicognito") == "dicognito"
    settings.refuse_destination("OTHER", "pacs")


def test_where_the_site_locks_projects_there_are_no_others(machine: Machine) -> None:
    write(machine.site, f"locked = ['projects']\n{RULES}")
    settings = load_settings()
    assert settings.choose_engine("TRIAL7") == "dicognito"
    with pytest.raises(SettingsError, match="has no project OTHER, and locks projects"):
        settings.choose_engine("OTHER")


def test_whose_log_is_taken_is_the_sites_word_alone(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SettingsError, match="locks store_owners"):
        load_settings(store_owners=["mallory"])
    monkeypatch.setattr("deid_hooks.files._trusted", set())
    write(machine.site, "store_owners = ['group:imaging']")
    assert load_settings().store_owners == ("group:imaging",)


def test_only_the_site_locks(machine: Machine) -> None:
    write(machine.user, "locked = ['policy']")
    with pytest.raises(SettingsError, match="Unknown setting locked"):
        load_settings()


def test_settings_of_the_site_that_another_user_could_write_are_refused(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = write(machine.site, "deadline = 1")
    for path in (site, site.parent):
        before = path.stat().st_mode
        for mode in (0o720, 0o702):
            path.chmod(mode)
            with pytest.raises(SettingsError, match=f"{path} holds the site's settings"):
                load_settings()
        path.chmod(before)
    assert load_settings().deadline == 1
    monkeypatch.setattr("deid_hooks.settings._SITE_OWNER", os.getuid() + 1)
    with pytest.raises(SettingsError, match="must be root's"):
        load_settings()


# What is wrong


def test_an_unknown_key_is_an_error_with_the_nearest(machine: Machine) -> None:
    path = write(machine.user, "polcy = 'all'")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == f"Unknown setting polcy ({path}) (did you mean policy?)."


def test_an_unknown_argument_is_an_error_with_the_nearest() -> None:
    with pytest.raises(SettingsError, match=r"Unknown setting urll \(argument\) .*mean url\?"):
        load_settings(urll="none:")


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("DEID_HOOKS_URLL", "DEID_HOOKS_URL"),
        ("DEID_HOOKS_CONFG", "DEID_HOOKS_CONFIG"),
        ("DEID_HOOKS_SECRETS", "DEID_HOOKS_SECRET"),
    ],
)
def test_an_unknown_variable_is_an_error_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, variable: str, nearest: str
) -> None:
    monkeypatch.setenv(variable, "hunter2")
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value) == f"Unknown variable {variable} (did you mean {nearest}?)."


@pytest.mark.parametrize(
    "text",
    [
        "url = 5",
        "url = ''",
        "url = ['sqlite:///x']",
        "policy = 1",
        "secret_file = 7",
        "secret_file = ''",
        "secret_file = '~nobody-at-all/secret'",
        "deadline = 'soon'",
        "deadline = true",
        "deadline = 0",
        "large_values = 0",
        "large_values = 1.5",
        "large_values = true",
        "large_values = 'much'",
        "large_values = 4096",
        "deadline = -1",
        "deadline = nan",
        "deadline = inf",
        "plugin_timeout = [1]",
        "fields = 5",
        "fields = {PatientID = 1}",
        "fields = [['PatientID']]",
        "disabled_plugins = [1]",
        "disabled_plugins = 2026-01-01",
        "allowed_plugins = 3",
        "projects = 'TRIAL7'",
        "projects = {TRIAL7 = 'basic'}",
        "projects = {TRIAL7 = {engin = 'basic'}}",
        "projects = {TRIAL7 = {engine = 1}}",
        "projects = {TRIAL7 = {destinations = 'pacs'}}",
        "projects = {TRIAL7 = {destinations = 1}}",
    ],
)
def test_a_value_of_the_wrong_kind_is_an_error(machine: Machine, text: str) -> None:
    path = write(machine.user, text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    key = text.partition(" ")[0]
    assert str(caught.value) == f"{key} has a value of the wrong kind ({path})."


def test_a_value_of_a_choice_is_an_error_with_the_nearest(machine: Machine) -> None:
    write(machine.user, "policy = 'al'")
    with pytest.raises(SettingsError, match=r"policy must be all or identifying .*mean all\?"):
        load_settings()


@pytest.mark.parametrize(
    "text", ["url = 'sqlite:///log.db'", "url = 'jsonl:///log'", "secret_file = 'secret'"]
)
def test_a_relative_path_in_a_file_is_an_error(machine: Machine, text: str) -> None:
    path = write(machine.user, text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    key = text.partition(" ")[0]
    assert str(caught.value).startswith(f"{key} of {path} is a relative path")


def test_an_unknown_keyword_is_an_error_with_the_nearest(machine: Machine) -> None:
    write(machine.user, "fields = ['PatientAgee']")
    with pytest.raises(SettingsError, match=r"unknown keyword PatientAgee .*mean PatientAge\?"):
        load_settings()


@pytest.mark.parametrize(
    ("keyword", "vr"),
    [
        ("ReferencedStudySequence", "SQ"),
        ("EncapsulatedDocument", "OB"),
        ("PixelData", "OB or OW"),
        ("SmallestImagePixelValue", "US or SS"),
    ],
)
def test_a_field_that_has_no_text_is_refused(machine: Machine, keyword: str, vr: str) -> None:
    write(machine.user, f"fields = ['Rows', '{keyword}']")
    with pytest.raises(SettingsError, match=f"{keyword} .* no text .* {vr}"):
        load_settings()


def test_fields_are_added_to_the_default_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEID_HOOKS_FIELDS", "PatientAge, PatientID BodyPartExamined")
    assert load_settings().fields == (*INDEXED_FIELDS, "PatientAge", "BodyPartExamined")


def test_an_empty_variable_disables_no_plugin(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(machine.user, "disabled_plugins = ['quota']")
    assert load_settings().disabled_plugins == ("quota",)
    monkeypatch.setenv("DEID_HOOKS_DISABLED_PLUGINS", "")
    assert load_settings().disabled_plugins == ()


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("deadline = 1\nurl = hunter2", "at line 2, column 7"),
        ("url = 'postgresql://me:hunter2@db", "at end of document"),
        ("deadline = 1\n[hunter2]\n[hunter2]", "at line 3, column 9"),
        ("hunter2 = 1\nhunter2 = 2\n\n", "at line 2"),
        ("hunter2 = " + "9" * 5000, ""),
    ],
)
def test_a_file_that_is_not_toml_is_an_error_that_names_the_line_and_quotes_nothing(
    machine: Machine, text: str, where: str
) -> None:
    path = write(machine.user, text)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(path) in str(caught.value)
    assert where in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_file_that_is_not_text_is_an_error(machine: Machine) -> None:
    write(machine.user, "").write_bytes(b"\xff\xfeu\0")
    with pytest.raises(SettingsError, match="is not TOML"):
        load_settings()


# Passwords


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604])
@pytest.mark.parametrize(
    "url", ["postgresql://me:hunter2@db/log", "postgresql://db/log?user=me&password=hunter2"]
)
def test_a_password_that_others_may_read_is_refused(machine: Machine, mode: int, url: str) -> None:
    path = write(machine.user, f"url = '{url}'", mode)
    with pytest.raises(SettingsError, match=r"Others may read .* chmod 600") as caught:
        load_settings()
    assert "hunter2" not in str(caught.value)
    path.chmod(0o600)
    assert load_settings().url == url


def test_a_file_without_a_password_may_be_read_by_others(machine: Machine) -> None:
    write(machine.site, "url = 'postgresql://me@db/log'", 0o644)
    assert load_settings().url == "postgresql://me@db/log"


def test_settings_do_not_show_a_password() -> None:
    settings = load_settings(url="postgresql://me:hunter2@db/log?password=hunter2")
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in f"{settings}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:////srv/log.db", "sqlite:////srv/log.db"),
        ("none:", "none:"),
        ("folder:/a:b@c", "folder:/a:b@c"),
        ("postgresql://db:5432/log", "postgresql://db:5432/log"),
        ("postgresql://me@db/log", "postgresql://me@db/log"),
        ("postgresql://me:hunter2@db/log", "postgresql://me:***@db/log"),
        ("postgresql://me:@db/log", "postgresql://me:***@db/log"),
        ("postgresql://:hunter2@db/log", "postgresql://:***@db/log"),
        ("postgresql://m%40e:hunt%40er2@db/log", "postgresql://m%40e:***@db/log"),
        ("postgresql://me:hunt@er:2@db/log", "postgresql://me:***@db/log"),
        ("postgresql://me:hunt/er2@db/log", "postgresql://me:***@db/log"),
        ("postgresql://me:hunt#er2@db/log", "postgresql://me:***@db/log"),
        ("postgresql://me:hunter2@db/log@2", "postgresql://me:***@db/log@2"),
        ("http://pacs:8042/a@b", "http://pacs:8042/a@b"),
        ("http://[::1]:8042/dicom-web", "http://[::1]:8042/dicom-web"),
        ("http://[::1", "http://[::1"),
        ("mysql://db/log?password=hunter2#x", "mysql://db/log?password=***#x"),
        ("mysql://db/log?a=b&PASSWD=hunter2&c=d", "mysql://db/log?a=b&PASSWD=***&c=d"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert mask_passwords(url) == shown
    assert mask_passwords(shown) == shown


@given(
    user=st.from_regex(r"[^/?#@:\n]*", fullmatch=True),
    password=st.from_regex(r"[A-Z!/?#: ]*hunter2[A-Z!/?#: ]*", fullmatch=True),
)
def test_no_password_is_ever_shown(user: str, password: str) -> None:
    assert "hunter2" not in mask_passwords(f"postgresql://{user}:{password}@db/log")


def test_settings_made_by_hand_are_the_defaults() -> None:
    assert Settings(url="none:").deadline == 10.0

"""An uploader with a plugin manager and a process of its own: ``install(pm)``, and no more."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.whole.canaries import found_in, write_series
from tests.whole.site import LOG, Site

HOST = """
import json, shutil, sys
from pathlib import Path
import pluggy
from pydicom import dcmread
from deid_hooks import PostUpload, PreUpload, install

def main(refusing):
    pm = pluggy.PluginManager("hostapp")
    hookimpl = pluggy.HookimplMarker("hostapp")
    if refusing:
        class Refusing:
            @hookimpl
            def pre_upload(self, event):
                return "quota reached"
        pm.register(Refusing())
    hooks = install(pm, "host/1.0")
    staged = []
    with hooks.acquisition(project="TRIAL7") as acquisition:
        for path in sorted(Path("incoming").iterdir()):
            dataset = dcmread(path)
            with acquisition.deidentifying(dataset):
                dataset.PatientName = dataset.PatientID = "SUBJ-001"
                del dataset.PatientBirthDate
                dataset.SOPInstanceUID += ".1"
            dataset.save_as(f"staged-{path.name}")
            staged.append(f"staged-{path.name}")
        event = acquisition.event()
        pm.hook.post_deid(event=event)
    pm.hook.pre_upload(event=PreUpload(event.log_id, "folder:sent", "host/1.0"))
    for name in staged:
        shutil.copy(name, "sent")
    pm.hook.post_upload(event=PostUpload(event.log_id, "folder:sent", "host/1.0", "uploaded"))
    print(json.dumps(event.log_id))

main(sys.argv[1:] == ["refusing"])
"""


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path / "site")
    write_series(made.folder / "incoming")
    (made.folder / "sent").mkdir()
    (made.folder / "host.py").write_text(HOST)
    return made


def run_host(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "host.py", *words],
        env=site.environment,
        cwd=site.folder,
        capture_output=True,
        text=True,
    )


def sent(site: Site) -> list[str]:
    return sorted(path.name for path in (site.folder / "sent").iterdir())


def test_a_host_that_knows_only_install_logs_and_uploads(site: Site) -> None:
    done = run_host(site)
    assert done.returncode == 0, done.stderr
    log_id = json.loads(done.stdout)
    assert sent(site) == ["staged-0.dcm", "staged-1.dcm"]
    assert site.sql("SELECT id, PatientID, deid_PatientID FROM deid_log") == [
        (log_id, "QXPID0042", "SUBJ-001")
    ]
    assert site.sql("SELECT event, destination, uploader FROM deid_log_upload") == [
        ("cleared", "folder:sent", "host/1.0"),
        ("uploaded", "folder:sent", "host/1.0"),
    ]


def lose_the_log(site: Site) -> list[str]:
    (site.folder / LOG).unlink()
    return []


def refuse_by_a_plugin_of_the_host(site: Site) -> list[str]:
    return ["refusing"]


def refuse_by_a_plugin_of_ours(site: Site) -> list[str]:
    site.plug_in(
        "from deid_hooks import hookimpl\n@hookimpl\ndef pre_upload(event):\n    return 'no'\n"
    )
    return []


def lose_the_entry(site: Site) -> list[str]:
    site.change(
        "CREATE TRIGGER loses AFTER INSERT ON deid_log BEGIN"
        " DELETE FROM deid_log WHERE seq = new.seq; END"
    )
    return []


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lose_the_log, "Unable to log de-identified data"),
        (lose_the_entry, "Unable to "),
        (refuse_by_a_plugin_of_the_host, "Unable to resolve de-identification ID."),
        (refuse_by_a_plugin_of_ours, "Unable to resolve de-identification ID."),
    ],
)
def test_a_host_that_ignores_what_hooks_return_sends_nothing_that_was_refused(
    site: Site, harm: Any, said: str
) -> None:
    done = run_host(site, *harm(site))
    assert done.returncode != 0
    assert said in done.stderr
    assert sent(site) == []
    assert found_in(done.stdout + done.stderr) == []

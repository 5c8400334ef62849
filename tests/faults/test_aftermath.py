"""The campaign notices what it looks for: each kind of damage, done by hand."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from tests.faults.aftermath import everything, kept, leaks, message, out_there
from tests.faults.forgetting import Forgetting
from tests.faults.looking import Looking
from tests.faults.scene import Ran, Scene
from tests.faults.tally import CUT_SHORT, LEAKED, LOST, UNLOGGED, WRONG_MESSAGE, Problem, Try, table
from tests.whole.canaries import found_in, needles
from tests.whole.site import LOG

pytestmark = pytest.mark.ci

DONE = Ran(0, "", "8 files: 8 uploaded\n")


def delete_an_entry(scene: Scene) -> None:
    scene.change("DELETE FROM deid_log")


def change_an_original(scene: Scene) -> None:
    scene.change("UPDATE deid_log SET PatientName = 'Somebody^Else'")


def take_the_clearance(scene: Scene) -> None:
    scene.change("DELETE FROM deid_log_upload")


def cut_a_file(scene: Scene) -> None:
    path = next(scene.delivered.rglob("*.dcm"))
    path.write_bytes(path.read_bytes()[:-1])


def leave_a_file(scene: Scene) -> None:
    (scene.delivered / "left.tmp").touch()


def send_a_file_again(scene: Scene) -> None:
    path = next(scene.delivered.rglob("*.dcm"))
    shutil.copy(path, scene.folder / "copy")
    (scene.folder / "copy").rename(path)


def leave_a_value(scene: Scene) -> None:
    (scene.folder / "tmp" / "left").write_text("of Qxsurname^Qxgiven")


def name_a_file_by_a_value(scene: Scene) -> None:
    (scene.folder / "tmp" / "QXPID0042").touch()


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (delete_an_entry, UNLOGGED),
        (delete_an_entry, LOST),
        (change_an_original, UNLOGGED),
        (take_the_clearance, UNLOGGED),
        (cut_a_file, CUT_SHORT),
        (leave_a_file, CUT_SHORT),
        (send_a_file_again, LOST),
        (leave_a_value, LEAKED),
        (name_a_file_by_a_value, LEAKED),
    ],
)
def test_damage_is_noticed(scene: Scene, harm: Callable[[Scene], None], kind: str) -> None:
    def problems() -> list[Problem]:
        return [*out_there(scene), *kept(scene, None), *leaks(scene)]

    assert problems() == []
    harm(scene)
    assert kind in {problem.kind for problem in problems()}


@pytest.mark.parametrize(
    ("ran", "complete"),
    [
        (DONE, False),
        (Ran(69, "", "Something is wrong"), False),
        (Ran(3, "", ""), False),
        (Ran(1, "", "Traceback (most recent call last):"), False),
        (Ran(42, "", "Unable to log de-identified data: why"), False),
    ],
)
def test_a_message_that_does_not_fit_is_noticed(ran: Ran, complete: bool) -> None:
    assert {problem.kind for problem in message(ran, complete)} == {WRONG_MESSAGE}
    assert list(message(DONE, True)) == []
    assert list(message(Ran(69, "", "Unable to log de-identified data: why"), False)) == []


@pytest.mark.parametrize(
    "ran", [Ran(0, "Qxgiven", ""), Ran(0, "", "QXPID0042"), Ran(0, "", "", b"--name\0QXPID0042")]
)
def test_a_value_in_what_a_run_shows_is_noticed(scene: Scene, ran: Ran) -> None:
    assert {problem.kind for problem in leaks(scene, ran)} == {LEAKED}


def test_the_values_that_are_looked_for_are_in_the_images_and_in_the_log(scene: Scene) -> None:
    scene.upload_all()
    read = b"".join(path.read_bytes() for path in (scene.stage.source / "all").iterdir())
    assert found_in(read) == needles()
    shown = scene.run("search", "Modality=CT", "--format", "ids").stdout
    show = scene.run("show", *shown.split(), "--format", "json").stdout
    assert found_in(show) == needles()
    assert (scene.folder / LOG).exists()


def test_an_undisturbed_run_has_no_problem_and_its_arguments_were_seen(scene: Scene) -> None:
    ran = scene.upload_all(jobs=2)
    assert b"upload" in ran.processes
    assert b"DEID_HOOKS_SECRET" in ran.processes
    assert everything(scene, ran) == []


def test_the_table_counts_by_fault() -> None:
    tries = [Try("b", 1), Try("a", 3, (LOST, LOST)), Try("b", 0, (UNLOGGED,))]
    assert table(tries).splitlines()[2:] == [
        "| a | 1 | 3 | 0 | 0 | 2 | 0 | 0 |",
        "| b | 2 | 1 | 1 | 0 | 0 | 0 | 0 |",
    ]


def test_an_entry_that_was_not_erased_is_noticed(scene: Scene) -> None:
    forgetting = Forgetting(scene)
    problems = forgetting.aftermath(Ran(0, "Erased: 1 entry.", ""))
    assert {problem.kind for problem in problems} == {LOST, LEAKED}
    assert forgetting.aftermath(forgetting.run()) == []


@pytest.mark.parametrize("command", ["show", "reidentify"])
def test_a_look_without_a_row_of_the_trail_is_noticed(scene: Scene, command: str) -> None:
    looking = Looking(scene, command)
    assert looking.aftermath(looking.run()) == []
    looked = looking.run()
    scene.change("DELETE FROM deid_log_access")
    assert UNLOGGED in {problem.kind for problem in looking.aftermath(looked)}

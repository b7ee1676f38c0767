"""How much a person may have at work at once: whatever a page can start counts, and asks first."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app import doors, house, inspecting, machine_view
from tests.app.stored import eval_row, train_row, write_run
from tests.app.test_house import config, no_rules
from trace_engine import health, runs
from trace_engine.audit import background as audits
from trace_engine.causal.settings import CausalConfig
from trace_engine.cli.configuring import bundled_audit
from trace_engine.config import ModelConfig
from trace_engine.disk import write_json
from trace_engine.errors import RunError
from trace_engine.export import background as exports
from trace_engine.runs import detach, evidence, launcher
from trace_engine.sweeps import launcher as sweeping

__all__ = ["no_rules"]
OpenPage = Callable[..., AppTest]
SLEEPER = [sys.executable, "-c", "import time; time.sleep(100)"]


class House:
    """A server with logins and one place a person, whose workers sleep and hold their locks."""

    def __init__(self, patch: pytest.MonkeyPatch, home: Path) -> None:
        self.patch, self.home = patch, home
        self.texts = {}
        for side in ("forget", "retain"):
            path = home / f"{side}.txt"
            path.write_text(f"{side} text", encoding="utf-8")
            self.texts[side] = {"source": str(path)}
        patch.setenv("TRACE_LOGIN", "1")
        patch.setenv("TRACE_MOST_ACTIVE", "1")
        for module in (launcher, audits, evidence, exports, sweeping):
            patch.setattr(module, "WORKER", SLEEPER)
        patch.setattr(inspecting, "command", lambda *_, **__: SLEEPER)

    def come(self, name: str) -> None:
        self.patch.setattr(house.st, "user", {"is_logged_in": True, "iss": "i", "sub": name})

    def end_all(self) -> None:
        for child in detach._children:
            child.kill()
            child.wait()

    # ---- a way to start each kind of work; what must be there first is made by ben and has ended

    def launch(self) -> object:
        return doors.launch(config(**self.texts))

    def resume(self) -> object:
        run = write_run(self.home, [], "stopped")
        write_json(run.path / "launch.json", {"owner": "ben", "token": "press"})
        return doors.resume(run.id)

    def launch_sweep(self) -> object:
        grid = {"max_steps": (1, 2)}
        return doors.launch_sweep(config(**self.texts), [grid], "", token="t")

    def resume_sweep(self) -> object:
        base = config(**self.texts)
        sweep = sweeping.launch_sweep(base, [{"max_steps": (1, 2)}], owner="ben")
        self.end_all()
        return doors.resume_sweep(sweep)

    def start_export(self) -> object:
        run = write_run(self.home, [eval_row(0, 0.9, 0.8), train_row(1)])
        (run.path / "model").mkdir()
        (run.path / "model" / "config.json").write_text("{}")
        (run.path / "model" / "model.safetensors").write_bytes(bytes(10))
        return doors.start_export(run, "merged")

    def launch_audit(self) -> object:
        return doors.launch_audit(bundled_audit(), token="t")

    def resume_audit(self) -> object:
        audit = audits.launch_audit(bundled_audit(), owner="ben")
        self.end_all()
        return doors.resume_audit(audit)

    def start_evidence(self) -> object:
        return doors.start_evidence(CausalConfig())

    def inspect(self) -> object:
        return doors.inspect(ModelConfig())


STARTS = [name for name, door in vars(House).items() if name in vars(doors) and callable(door)]


@pytest.fixture
def server(no_rules: pytest.MonkeyPatch, trace_home: Path) -> Iterator[House]:
    found = House(no_rules, trace_home)
    yield found
    found.end_all()


def test_every_door_that_starts_something_is_tried_here() -> None:
    source = Path(doors.__file__).read_text(encoding="utf-8")
    assert source.count("with house.starting(") == len(STARTS) == 9


@pytest.mark.parametrize("name", STARTS)
def test_whatever_computes_counts_for_who_started_or_resumed_it(name: str, server: House) -> None:
    server.come("anna")
    house.may_start()
    begun = getattr(server, name)()
    try:
        with pytest.raises(RunError, match="1 job of yours waits or computes, as many as a person"):
            house.may_start()
        server.come("ben")
        house.may_start()
        server.patch.setenv("TRACE_LOGIN", "0")
        with pytest.raises(RunError, match="1 job waits or computes, as many as this server takes"):
            house.may_start()
    finally:
        if isinstance(begun, inspecting.Inspecting):
            begun.__exit__()
    server.end_all()
    house.may_start()


@pytest.mark.parametrize("name", STARTS)
def test_nothing_starts_where_the_place_is_taken(name: str, server: House) -> None:
    busy = write_run(server.home, [], "running")
    server.come("anna")
    write_json(busy.path / "launch.json", {"owner": house.person()})
    with busy.lock(), pytest.raises(RunError, match="1 job of yours"):
        getattr(server, name)()
    assert all(child.poll() is not None for child in detach._children)
    assert inspecting.under_way() == 0


@pytest.mark.parametrize("name", ["resume", "resume_sweep", "launch_audit", "resume_audit"])
def test_the_longest_training_is_asked_about_at_every_door(name: str, server: House) -> None:
    """Those that are resumed were made before the limit was, or by the command line."""
    server.come("anna")
    longest = {"resume": 20, "resume_sweep": 2}.get(name, 200)
    whose = "this audit's relearning or recovery" if "audit" in name else "this one"
    refused = f"may have {longest - 1} steps on this server, and {whose} asks for {longest}"
    server.patch.setenv("TRACE_MOST_STEPS", str(longest - 1))
    with pytest.raises(RunError, match=refused):
        getattr(server, name)()
    assert all(child.poll() is not None for child in detach._children)
    server.patch.setenv("TRACE_MOST_STEPS", str(longest))
    getattr(server, name)()
    assert health.at_work(house.person()) == 1


def test_an_audit_without_trainings_asks_for_no_steps(server: House) -> None:
    server.come("anna")
    server.patch.setenv("TRACE_MOST_STEPS", "1")
    doors.launch_audit(bundled_audit().model_copy(update={"parts": ("questions",)}), token="t")
    assert health.at_work(house.person()) == 1


def test_a_sweep_counts_by_its_runs_and_as_one_between_them(server: House) -> None:
    server.come("anna")
    sweep = str(server.launch_sweep())
    assert health.at_work() == 1
    for steps in (1, 2):
        runs.launch(config(**server.texts, max_steps=steps), sweep=sweep, owner=house.person())
    assert health.at_work() == health.at_work(house.person()) == 2
    assert [job.kind for job in health.jobs()] == ["sweep"]


def test_two_presses_at_once_do_not_both_find_the_last_place(server: House) -> None:
    server.come("anna")
    slow = runs.launch
    server.patch.setattr(runs, "launch", lambda *a, **k: (time.sleep(0.2), slow(*a, **k))[1])
    refused: list[str] = []

    def press(steps: int) -> None:
        try:
            doors.launch(config(**server.texts, max_steps=steps))
        except RunError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=press, args=(steps,)) for steps in (3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    assert len(runs.list_runs()) == 1


def test_resuming_keeps_what_else_is_known_of_the_launch(server: House) -> None:
    server.come("anna")
    run = runs.open_run(str(server.resume()))
    assert run.owner() == house.person()
    assert run.launched()["token"] == "press"


def test_whoever_is_let_in_may_stop_and_delete_anybodys_run(server: House) -> None:
    """As SECURITY.md says: people are not told apart but for the queue."""
    server.come("ben")
    done = write_run(server.home, [], "done")
    write_json(done.path / "launch.json", {"owner": house.person()})
    server.come("anna")
    doors.delete(done.id)
    assert not done.path.exists()


def test_a_full_house_says_nothing_of_the_model(server: House, open_page: OpenPage) -> None:
    server.patch.setenv("TRACE_LOGIN", "0")
    busy = write_run(server.home, [], "running")
    with busy.lock():
        page = open_page("data_model")
        page.button(key="inspect_model").click().run()
    assert not page.exception
    assert any("1 job waits or computes" in warning.value for warning in page.warning)
    assert not page.error
    page.run()  # and it is not kept as an answer
    assert not any("waits or computes" in warning.value for warning in page.warning)


def test_jobs_are_listed_with_what_they_do(server: House, open_page: OpenPage) -> None:
    server.patch.setenv("TRACE_LOGIN", "0")
    server.patch.setenv("TRACE_MOST_ACTIVE", "9")
    audit = str(server.launch_audit())
    server.start_evidence()
    server.start_export()
    folder = evidence.evidence_folder(CausalConfig())
    told = {"phase": "ablating", "done": 3, "total": 64, "unit": "experts"}
    write_json(folder / "progress.json", told | {"per_second": None, "eta_seconds": 30})
    found = {job.kind: job for job in health.status().jobs}
    assert set(found) == {"audit", "evidence", "export"}
    assert (found["audit"].id, found["audit"].state) == (audit, "starting")
    assert (found["evidence"].name, found["evidence"].state) == ("scan", "running")
    assert all(0 <= job.age_seconds < 60 for job in found.values())
    links = [link.proto.label for link in open_page("unlearn").get("page_link")]
    assert "This machine: 3 at work or waiting" in links
    page = open_page("status")
    (table,) = [table.value for table in page.dataframe if "progress" in table.value]
    assert set(table["kind"]) == {"audit", "causal evidence", "export"}
    assert "ablating: 3 of 64 experts, about 30 s left" in set(table["progress"])
    write_json(folder / "progress.json", told | {"phase": "waiting, 1 ahead"})
    assert health.status().queued == 1
    server.end_all()
    assert machine_view.jobs_frame(health.status().jobs).empty
